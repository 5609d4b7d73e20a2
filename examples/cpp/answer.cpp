// answer BUNDLE [--stream N] a=voice.f32 t=words.f32: logits of an utterance, whole or N frames at a time.
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "ifmmin.hpp"

static void print(const ifmmin::Bundle& bundle, const std::vector<float>& logits) {
  for (size_t i = 0; i < logits.size(); ++i) std::cout << (i ? " " : "") << bundle.manifest()["labels"][i].get<std::string>() << "=" << logits[i];
  std::cout << std::endl;
}

int main(int count, char** words) try {
  std::string directory;
  size_t piece = 0;
  std::map<std::string, std::vector<float>> features;
  for (int i = 1; i < count; ++i) {
    std::string word = words[i];
    size_t equals = word.find('=');
    if (word == "--stream" && i + 1 < count) piece = std::strtoul(words[++i], nullptr, 10);
    else if (equals == std::string::npos) directory = word;
    else {  // float32 in this machine's order, frame by frame: numpy's array.tofile()
      std::string content = ifmmin::read(word.substr(equals + 1));
      auto& values = features[word.substr(0, equals)];
      values.resize(content.size() / sizeof(float));
      std::memcpy(values.data(), content.data(), values.size() * sizeof(float));
    }
  }
  if (directory.empty() || features.empty()) throw ifmmin::Error("usage: answer BUNDLE [--stream N] a=FILE v=FILE t=FILE");
  ifmmin::Bundle bundle(directory);
  std::cout.precision(9);
  if (!piece) { print(bundle, bundle.answer(features)); return 0; }
  ifmmin::Stream stream(bundle);
  for (size_t at = 0, left = 1; left; at += piece) {
    left = 0;
    for (auto& [m, values] : features) {
      size_t dim = bundle.number(m, "dim"), first = std::min(values.size(), at * dim), last = std::min(values.size(), (at + piece) * dim);
      if (first < last) { stream.push(m, {values.begin() + first, values.begin() + last}); left += last < values.size(); }
    }
    print(bundle, stream.answer());
  }
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << std::endl;
  return 2;
}
