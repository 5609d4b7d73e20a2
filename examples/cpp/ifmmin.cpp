// A bundle, its answers and its streams, by ONNX Runtime's C API.
//
//   ifmmin BUNDLE a=sound.f32 t=words.f32              the answer of one utterance
//   ifmmin BUNDLE --chunk 5 a=sound.f32 v=face.f32     a stream: an answer after every 5 frames
//
// A file holds frames as rows of float32 in this machine's order, as numpy's tofile writes them.
// Answers are lines of JSON. Exit code 2, with one line, for what the caller can mend.
#include <onnxruntime_c_api.h>
#include <openssl/evp.h>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
using Json = nlohmann::json;

struct Array {  // of float32, row by row
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using Arrays = std::map<std::string, Array>;  // by the names of inputs or outputs
template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

[[noreturn]] void fail(const std::string& why) { throw std::runtime_error(why); }

const OrtApi& api() {
  static const OrtApi* const found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!found) fail("ONNX Runtime is older than the headers here were; take a newer library");
  return *found;
}

void check(OrtStatus* status) {
  if (!status) return;
  const std::string why = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  fail("ONNX Runtime: " + why);
}

template <class T, class Make>
Owned<T> owned(void (*release)(T*), Make make) {
  T* made = nullptr;
  check(make(&made));
  return {made, release};
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), {}};
  if (!file) fail(path + " cannot be read");
  return content;
}

std::string sha256(const std::string& content) {
  unsigned char digest[32] = {};
  EVP_Digest(content.data(), content.size(), digest, nullptr, EVP_sha256(), nullptr);
  std::string text;
  for (int i = 0; i < 64; ++i) text += "0123456789abcdef"[digest[i / 2] >> (i % 2 ? 0 : 4) & 15];
  return text;
}

Array read_frames(const std::string& path, int64_t dim) {  // (T, dim)
  const std::string content = read_file(path);
  if (content.size() % (dim * sizeof(float)))
    fail(path + " does not hold rows of " + std::to_string(dim) + " float32");
  std::vector<float> values(content.size() / sizeof(float));
  std::copy(content.begin(), content.end(), reinterpret_cast<char*>(values.data()));
  if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }))
    fail(path + " holds a number that is not finite");
  return {{static_cast<int64_t>(values.size()) / dim, dim}, values};
}

// Rows from `begin` to `end`, and zeros where these are fewer than `least`: (T, D).
Array rows(const Array& frames, int64_t begin, int64_t end, int64_t least) {
  const int64_t dim = frames.shape[1], count = std::max(end - begin, least);
  const float* first = frames.values.data();
  Array found{{count, dim}, {first + begin * dim, first + end * dim}};
  found.values.resize(count * dim);
  return found;
}

struct Graph {
  Json entry;  // of the manifest
  Owned<OrtSession> session;

  Arrays run(Arrays inputs) const {
    const auto memory = owned<OrtMemoryInfo>(api().ReleaseMemoryInfo, [](OrtMemoryInfo** made) {
      return api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, made);
    });
    std::vector<Owned<OrtValue>> kept;  // released at the end
    std::vector<const OrtValue*> given;
    std::vector<const char*> names, wanted;
    for (auto& one : inputs) {
      auto& [shape, values] = one.second;
      OrtValue* made = nullptr;
      check(api().CreateTensorWithDataAsOrtValue(
          memory.get(), values.data(), values.size() * sizeof(float), shape.data(), shape.size(),
          ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &made));
      kept.emplace_back(made, api().ReleaseValue);
      given.push_back(made);
      names.push_back(one.first.c_str());
    }
    for (const Json& output : entry["outputs"])
      wanted.push_back(output["name"].get_ref<const std::string&>().c_str());
    std::vector<OrtValue*> made(wanted.size());
    check(api().Run(session.get(), nullptr, names.data(), given.data(), given.size(), wanted.data(),
                    wanted.size(), made.data()));
    for (OrtValue* value : made) kept.emplace_back(value, api().ReleaseValue);
    Arrays found;
    for (size_t i = 0; i < made.size(); ++i) {
      using About = OrtTensorTypeAndShapeInfo;
      const auto about = owned<About>(api().ReleaseTensorTypeAndShapeInfo, [&](About** told) {
        return api().GetTensorTypeAndShape(made[i], told); });
      size_t rank = 0, count = 0;
      float* data = nullptr;
      check(api().GetDimensionsCount(about.get(), &rank));
      check(api().GetTensorShapeElementCount(about.get(), &count));
      check(api().GetTensorMutableData(made[i], reinterpret_cast<void**>(&data)));
      Array& array = found[wanted[i]] = {std::vector<int64_t>(rank), {data, data + count}};
      check(api().GetDimensions(about.get(), array.shape.data(), rank));
    }
    return found;
  }
};

struct Bundle {
  std::string directory;
  Json manifest = Json::parse(read_file(directory + "/manifest.json"));
  std::map<std::string, Graph> opened = {};
  Owned<OrtEnv> env = owned<OrtEnv>(api().ReleaseEnv, [](OrtEnv** made) {
    return api().CreateEnv(ORT_LOGGING_LEVEL_WARNING, "ifmmin", made);
  });

  // The fp32 graph of a shape for a pattern or modality; opened once, if it has the hash it should.
  const Graph& graph(const std::string& shape, const std::string& subject) {
    const auto known = opened.find(shape + " " + subject);
    if (known != opened.end()) return known->second;
    for (const Json& entry : manifest.at("graphs")) {
      if (entry.at("shape") != shape || entry.at("subject") != subject ||
          entry.at("precision") != "fp32" || entry.at("recurrence") == "scan")  // for TensorRT
        continue;
      const std::string path = directory + "/" + entry.at("file").get<std::string>();
      const std::string content = read_file(path);
      if (sha256(content) != entry.at("sha256"))
        fail(path + " is not what the manifest says; copy the bundle again");
      using Options = OrtSessionOptions;
      const auto options = owned<Options>(api().ReleaseSessionOptions, api().CreateSessionOptions);
      check(api().SetIntraOpNumThreads(options.get(), 1));
      Graph made{entry, owned<OrtSession>(api().ReleaseSession, [&](OrtSession** session) {
        return api().CreateSessionFromArray(env.get(), content.data(), content.size(),
                                            options.get(), session);
      })};
      return opened.emplace(shape + " " + subject, std::move(made)).first->second;
    }
    fail("the bundle has no fp32 " + shape + " graph of " + subject);
  }
};

struct Stream {  // what one modality said so far; its step graph's states go from call to call
  const Graph &step, &summary;
  int64_t least, heard = 0;  // frames: that the first call takes, and so far
  Arrays states = {};
  Array pooled = {};

  Stream(const Graph& a, const Graph& b, int64_t minimum) : step(a), summary(b), least(minimum) {
    for (const Json& state : step.entry["states"]) {
      Array& array = states[state["name"]];
      int64_t count = 1;
      for (const Json& size : state["initial_shape"]) {
        array.shape.push_back(size.is_string() ? 1 : size.get<int64_t>());  // of one stream
        count *= array.shape.back();
      }
      array.values.assign(count, state["initial"]);
    }
  }

  // Summary (1, S) of the frames up to `end`. Fewer than `least` are padded, and heard again later.
  Array hear(const Array& frames, int64_t end) {
    if (end > heard) {
      Arrays inputs = states;
      Array& given = inputs["frames"] = rows(frames, heard, end, heard ? 0 : least);
      given.shape.insert(given.shape.begin(), 1);
      Arrays found = step.run(std::move(inputs));
      pooled = found["pooled"];
      if (heard || end >= least) {
        heard = end;
        for (const Json& one : step.entry["states"]) states[one["name"]] = found[one["output"]];
      }
    }
    return summary.run({{"pooled", pooled}})["summary"];
  }
};

void answer(const Json& labels, const std::string& pattern, const std::vector<float>& logits) {
  const auto best = std::max_element(logits.begin(), logits.end());
  std::vector<double> shares;
  double sum = 0;
  for (const float x : logits) sum += shares.emplace_back(std::exp(double(x) - *best));
  for (double& share : shares) share /= sum;
  std::cout << Json{{"pattern", pattern}, {"label", labels.at(best - logits.begin())},
                    {"logits", logits}, {"probabilities", shares}} << std::endl;
}

void run(const std::vector<std::string>& words) {
  const bool streaming = words.size() > 2 && words[1] == "--chunk";
  Bundle bundle{words.empty() ? "" : words[0]};
  if (bundle.manifest.at("schema") != 4) fail("the bundle's schema is not 4; export it again");
  Arrays given;
  int64_t longest = 0;
  for (size_t i = streaming ? 3 : 1; i < words.size(); ++i) {
    const std::string name = words[i].substr(0, words[i].find('='));
    if (name == words[i] || !bundle.manifest.at("modalities").contains(name))
      fail("got " + words[i] + ", wanted MODALITY=FILE of a modality of the bundle");
    const Json& about = bundle.manifest["modalities"][name];
    Array frames = read_frames(words[i].substr(name.size() + 1), about.at("dim"));
    longest = std::max(longest, frames.shape[0]);
    if (frames.shape[0]) given[name] = std::move(frames);  // an empty modality is missing
  }
  std::string pattern;
  for (const std::string name : {"a", "v", "t"})
    if (given.count(name)) pattern += (pattern.empty() ? "" : "_") + name;
  if (given.empty()) fail("usage: ifmmin BUNDLE [--chunk FRAMES] MODALITY=FILE...");
  std::map<std::string, Stream> streams;
  for (auto& [name, frames] : given) {
    const int64_t least = bundle.manifest["modalities"][name].at("minimum_length");
    if (streaming)
      streams.try_emplace(name, bundle.graph("step", name), bundle.graph("summary", name), least);
    else
      frames = rows(frames, 0, frames.shape[0], least);
  }
  const Json& labels = bundle.manifest.at("labels");
  if (!streaming)
    return answer(labels, pattern, bundle.graph("latency", pattern).run(given)["logits"].values);
  const int64_t chunk = std::max(1, std::stoi(words[2]));
  for (int64_t end = chunk; end < longest + chunk; end += chunk) {
    Arrays summaries;
    for (auto& [name, stream] : streams)
      summaries[name] = stream.hear(given[name], std::min(end, given[name].shape[0]));
    answer(labels, pattern, bundle.graph("head", pattern).run(summaries)["logits"].values);
  }
}

int main(int count, char** words) try {
  run({words + 1, words + count});
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << std::endl;
  return 2;
}
