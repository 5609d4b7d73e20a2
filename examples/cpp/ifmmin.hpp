// A bundle of ifmmin by ONNX Runtime's C API: whole utterances of a pattern, and streams. C++17.
#pragma once
#include <onnxruntime_c_api.h>
#include <openssl/sha.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace ifmmin {

struct Error : std::runtime_error { using std::runtime_error::runtime_error; };

using Json = nlohmann::json;

inline std::string sha256(const std::string& content) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(content.data()), content.size(), digest);
  std::string hex;
  for (unsigned char byte : digest) (hex += "0123456789abcdef"[byte >> 4]) += "0123456789abcdef"[byte & 15];
  return hex;
}

inline std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path + " cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Tensor { std::vector<int64_t> shape; std::vector<float> data; };
using Tensors = std::map<std::string, Tensor>;

inline const OrtApi& api() {
  static const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!found) throw Error("the library of onnxruntime is older than the header that this was built with");
  return *found;
}
inline void check(OrtStatus* status) {
  if (!status) return;
  std::string told = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw Error(told);
}

inline size_t sized(const Json& shape, Tensor& x) {  // gives a shape, for one stream; its values
  size_t count = 1;
  for (const Json& size : shape) count *= x.shape.emplace_back(size.is_string() ? 1 : size.get<int64_t>());
  return count;
}

class Graph {  // one graph of the bundle, for one utterance or stream
 public:
  Graph(const Json& entry, const std::string& content) : entry_(entry) {
    static OrtEnv* env = [] { OrtEnv* made; check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "ifmmin", &made)); return made; }();
    OrtSessionOptions* options;
    check(api().CreateSessionOptions(&options));
    OrtStatus* status = api().CreateSessionFromArray(env, content.data(), content.size(), options, &session_);
    api().ReleaseSessionOptions(options);
    check(status);
    check(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory_));
  }
  Graph(const Graph&) = delete;
  ~Graph() { api().ReleaseSession(session_); api().ReleaseMemoryInfo(memory_); }
  const Json& entry() const { return entry_; }

  Tensors run(Tensors inputs) const {
    std::vector<const char*> names, wanted;
    std::vector<OrtValue*> values;
    for (auto& [name, x] : inputs) {
      names.push_back(name.c_str());
      check(api().CreateTensorWithDataAsOrtValue(memory_, x.data.data(), x.data.size() * sizeof(float), x.shape.data(),
                                                 x.shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &values.emplace_back()));
    }
    for (const Json& output : entry_["outputs"]) wanted.push_back(output["name"].get_ref<const std::string&>().c_str());
    std::vector<OrtValue*> made(wanted.size());
    OrtStatus* status = api().Run(session_, nullptr, names.data(), values.data(), values.size(), wanted.data(), wanted.size(), made.data());
    for (OrtValue* value : values) api().ReleaseValue(value);
    check(status);
    Tensors found;
    for (size_t i = 0; i < made.size(); ++i) {
      Tensor& x = found[wanted[i]];
      size_t count = sized(entry_["outputs"][i]["shape"], x);
      void* data;
      check(api().GetTensorMutableData(made[i], &data));
      x.data.assign(static_cast<float*>(data), static_cast<float*>(data) + count);
      api().ReleaseValue(made[i]);
    }
    return found;
  }

 private:
  Json entry_;
  OrtSession* session_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
};

class Bundle {  // a directory that ifmmin-export wrote; graphs are loaded when they are first wanted
 public:
  explicit Bundle(std::string directory) : directory_(std::move(directory)), manifest_(Json::parse(read(directory_ + "/manifest.json"))) {
    if (manifest_["schema"] != 4) throw Error("the bundle has schema " + manifest_["schema"].dump() + ", wanted 4");
  }
  const Json& manifest() const { return manifest_; }
  size_t number(const std::string& m, const char* name) const {  // of a modality: `dim` or `minimum_length`
    if (!manifest_["modalities"].contains(m)) throw Error("the bundle knows no modality " + m);
    return manifest_["modalities"][m][name];
  }

  Graph& graph(const std::string& shape, const std::string& subject) {
    auto& found = graphs_[shape + " " + subject];
    if (found) return *found;
    for (const Json& entry : manifest_["graphs"]) {
      if (entry["shape"] != shape || entry["subject"] != subject || entry["precision"] != "fp32" || entry["recurrence"] == "scan") continue;
      const std::string name = entry["file"], content = read(directory_ + "/" + name);
      if (sha256(content) != entry["sha256"]) throw Error(name + " is damaged: its sha256 is not the manifest's");
      return *(found = std::make_unique<Graph>(entry, content));
    }
    throw Error("the bundle has no fp32 " + shape + " graph of " + subject + "; export it with ifmmin-export");
  }
  Tensor frames(const std::string& m, std::vector<float> values, bool padded) const {  // (T, D), padded with zeros to the minimum
    size_t dim = number(m, "dim"), least = padded ? number(m, "minimum_length") : 0;
    if (values.empty() || values.size() % dim) throw Error("modality " + m + ": wanted frames of " + std::to_string(dim) + " numbers");
    for (float x : values) if (!std::isfinite(x)) throw Error("modality " + m + ": features must be finite");
    values.resize(std::max(values.size(), least * dim));
    return {{int64_t(values.size() / dim), int64_t(dim)}, std::move(values)};
  }
  std::vector<float> answer(const std::map<std::string, std::vector<float>>& features) {  // logits of an utterance
    std::string pattern;
    Tensors inputs;
    for (const auto& [m, values] : features) inputs[m] = frames(m, values, true);
    for (const char* m : {"a", "v", "t"}) if (features.count(m)) pattern += (pattern.empty() ? "" : "_") + std::string(m);
    return graph("latency", pattern).run(std::move(inputs))["logits"].data;
  }

 private:
  std::string directory_;
  Json manifest_;
  std::map<std::string, std::unique_ptr<Graph>> graphs_;
};

class Stream {  // frames as they come; what an answer costs does not grow with them
 public:
  explicit Stream(Bundle& bundle) : bundle_(bundle) {}
  void push(const std::string& m, const std::vector<float>& values) {
    Graph& step = bundle_.graph("step", m);
    Heard now = heard_[m];
    now.early.insert(now.early.end(), values.begin(), values.end());
    Tensor frames = bundle_.frames(m, now.early, now.states.empty());
    bool enough = frames.data.size() == now.early.size();
    Tensors inputs = now.states;
    if (inputs.empty()) for (const Json& state : step.entry()["states"]) {
      Tensor& x = inputs[state["name"]];
      x.data.assign(sized(state["initial_shape"], x), state["initial"].get<float>());
    }
    frames.shape.insert(frames.shape.begin(), 1);
    inputs["frames"] = std::move(frames);
    Tensors found = step.run(std::move(inputs));
    if (enough) {  // too few to begin with are heard again with those that follow
      now.early.clear();
      for (const Json& state : step.entry()["states"]) now.states[state["name"]] = found[state["output"]];
    }
    now.pooled = found["pooled"];
    heard_[m] = std::move(now);
  }
  void clear(const std::string& m) { heard_.erase(m); }  // it is missing until it is pushed again
  std::vector<float> answer() {
    std::string pattern;
    Tensors summaries;
    for (std::string m : {"a", "v", "t"}) {
      if (!heard_.count(m)) continue;
      pattern += (pattern.empty() ? "" : "_") + m;
      summaries[m] = bundle_.graph("summary", m).run({{"pooled", heard_[m].pooled}})["summary"];
    }
    if (pattern.empty()) throw Error("no modality is present");
    return bundle_.graph("head", pattern).run(std::move(summaries))["logits"].data;
  }

 private:
  struct Heard { std::vector<float> early; Tensors states; Tensor pooled; };
  Bundle& bundle_;
  std::map<std::string, Heard> heard_;
};

}  // namespace ifmmin
