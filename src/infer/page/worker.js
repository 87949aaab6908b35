// Runs the generator with onnxruntime-web, beside the page: latents in, pixels out.

let session = null;
let facts = null;
let ort = null;

addEventListener('message', async ({ data }) => {
  const { id } = data;
  try {
    if (data.kind === 'load') {
      await load(data);
      postMessage({ id });
    } else {
      const pixels = await images(data.latents, data.n);
      postMessage({ id, pixels }, [pixels.buffer]);
    }
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
});

async function load({ engine, library, model, generator }) {
  facts = generator;
  const at = (name) => new URL(`onnxruntime-web/${name}`, location.href).href;
  ort = await import(at(engine.entry));
  ort.env.logLevel = 'error';
  // One thread: more need headers of the server (cross-origin isolation). The page starts several workers instead.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { mjs: at(engine.glue), wasm: at(engine.library) };
  ort.env.wasm.wasmBinary = library;
  const options = { executionProviders: [engine.provider], graphOptimizationLevel: 'all' };
  session = await ort.InferenceSession.create(new Uint8Array(model), options);
}

/// RGBA of `n` images.
async function images(latents, n) {
  const { latent, input, output, batch, height, width, channels } = facts;
  const rows = batch ?? n;
  const pixels = new Uint8ClampedArray(n * height * width * 4);
  const image = height * width * channels;
  for (let first = 0; first < n; first += rows) {
    // A fixed batch is filled up with zeros.
    const block = new Float32Array(rows * latent.size);
    block.set(latents.subarray(first * latent.size, (first + rows) * latent.size));
    const shape = [rows, latent.size, ...Array(input.rank - 2).fill(1)];
    const results = await session.run({ [input.name]: new ort.Tensor('float32', block, shape) });
    const values = results[output.name].data;
    const here = Math.min(rows, n - first);
    if (values.length !== rows * image) throw new Error(`the generator gave ${values.length} values for ${rows} images of ${image}`);
    fill(pixels.subarray(first * height * width * 4), values, here);
    for (const result of Object.values(results)) result.dispose();
  }
  return pixels;
}

function fill(pixels, values, n) {
  const { output, height, width, channels } = facts;
  const area = height * width;
  const [pixelStep, channelStep] = output.channelsFirst ? [1, area] : [channels, 1];
  const pixel = output.element === 'u8' ? (value) => value : toPixel;
  for (let image = 0; image < n; image++) {
    for (let at = 0; at < area; at++) {
      const from = image * area * channels + at * pixelStep;
      const to = (image * area + at) * 4;
      for (let channel = 0; channel < 3; channel++) {
        pixels[to + channel] = pixel(values[from + (channel % channels) * channelStep]);
      }
      pixels[to + 3] = 255;
    }
  }
}

/// A value of the network as gan-infer rounds it.
function toPixel(value) {
  if (!Number.isFinite(value)) throw new Error('the generator gives NaN or infinity instead of an image');
  const { scale, shift } = facts.output;
  return Math.floor(Math.min(255, Math.max(0, Math.fround(Math.fround(value * scale) + shift))));
}
