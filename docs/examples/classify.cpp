// The number of each image's class, by a file that was exported with inside=all: classify MODEL IMAGE.ppm …
#include <algorithm>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <stdexcept>

// A PPM of 8 bits as uint8 (1, height, width, 3).
ov::Tensor decoded(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    size_t width = 0, height = 0, most = 0;
    if (!(file >> kind >> width >> height >> most) || kind != "P6" || most != 255)
        throw std::runtime_error(path + ": is no PPM of 8 bits");
    file.get();
    ov::Tensor image(ov::element::u8, {1, height, width, 3});
    if (!file.read(static_cast<char*>(image.data()), image.get_byte_size()))
        throw std::runtime_error(path + ": ends too early");
    return image;
}

int main(int count, char** words) {
    ov::Core core;  // bfloat16, which some processors prefer, has too few digits for pixels
    auto model = core.compile_model(words[1], "CPU", ov::hint::inference_precision(ov::element::f32));
    auto request = model.create_infer_request();
    for (int i = 2; i < count; i++) {
        request.set_input_tensor(decoded(words[i]));
        request.infer();
        const ov::Tensor logits = request.get_output_tensor();
        const auto* first = static_cast<const float*>(logits.data());
        std::cout << words[i] << '\t' << std::max_element(first, first + logits.get_size()) - first << '\n';
    }
}
