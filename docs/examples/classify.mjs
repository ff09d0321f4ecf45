// The class of each image, by a file of peftbench export format=onnx inside=all: node classify.mjs MODEL.onnx IMAGE.ppm …
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const [model, ...images] = process.argv.slice(2);
const about = JSON.parse(readFileSync(`${model}.preprocess.json`, "utf8"));
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(model), { executionProviders: ["wasm"] });

// A PPM of 8 bits as uint8 (1, height, width, 3). In a browser: the pixels of a canvas without their alpha.
function decoded(path) {
  const bytes = readFileSync(path);
  const header = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(bytes.toString("latin1", 0, 64));
  if (!header) throw new Error(`${path}: is no PPM of 8 bits`);
  const [width, height] = [Number(header[1]), Number(header[2])];
  const pixels = Uint8Array.from(bytes.subarray(header[0].length));
  return new ort.Tensor("uint8", pixels, [1, height, width, 3]);
}

for (const path of images) {
  const answer = await session.run({ [about.input.name]: decoded(path) });
  const logits = answer[about.outputs[0]].data;
  console.log(`${path}\t${about.classes[logits.indexOf(Math.max(...logits))]}`);
}
