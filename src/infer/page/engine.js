// The workers that make images: loaded once, then asked for images in the order of their urgency.

/// Workers at most, beside which a page still scrolls.
const MOST_WORKERS = 4;

/// Loads a file of the page and tells how much of it has come.
async function fetched({ name, bytes }, told) {
  let response;
  try {
    response = await fetch(name);
  } catch {
    throw new Error(`${name} cannot be loaded: the server does not answer.`);
  }
  if (!response.ok) throw new Error(`${name} cannot be loaded: the server answers ${response.status}. Copy the page's whole folder there.`);
  const parts = [];
  let length = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    told((length += value.length));
  }
  if (length !== bytes) {
    throw new Error(`${name} has ${length} bytes here and had ${bytes} when the page was made: copy the page's whole folder again.`);
  }
  return new Blob(parts).arrayBuffer();
}

/// A generator that is ready, on `kind` of the generator's engines ('wasm' or 'webgpu'). `progress` hears what is loaded, and how much.
export async function open(generator, kind, progress) {
  const engine = generator.engines[kind];
  const files = [{ ...engine.files.library, name: `onnxruntime-web/${engine.library}` }, engine.files.model];
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  const had = files.map(() => 0);
  const tell = (at) => (length) => {
    had[at] = length;
    progress({ done: had.reduce((sum, length) => sum + length, 0), total });
  };
  const [library, model] = await Promise.all(files.map((file, at) => fetched(file, tell(at))));
  progress({ done: total, total });
  const images = new Images(generator, { engine, library, model });
  await images.begin();
  return images;
}

export class Images {
  constructor(generator, parts) {
    this.generator = generator;
    this.parts = parts;
    this.workers = [];
    this.queue = [];
    this.closed = false;
  }

  async begin() {
    this.workers = [await this.worker()];
  }

  /// How many workers there are.
  get size() {
    return this.workers.length;
  }

  /// More workers, one a core, where the engine computes on the processor; they come one by one.
  async grow() {
    const { engine } = this.parts;
    const cores = engine.provider === 'wasm' ? (navigator.hardwareConcurrency ?? 1) : 1;
    // Each takes about 100 MB.
    const most = (navigator.deviceMemory ?? 8) < 4 ? 1 : Math.min(cores, MOST_WORKERS);
    while (this.workers.length < most && !this.closed) {
      let worker;
      try {
        worker = await this.worker();
      } catch {
        return; // no memory for another: those that are there serve
      }
      if (this.closed) return worker.end();
      this.workers.push(worker);
      this.next();
    }
  }

  async worker() {
    const worker = new EngineWorker();
    try {
      // The parts are copied: the next worker needs them, too.
      await worker.ask({ kind: 'load', generator: this.generator, ...this.parts });
    } catch (error) {
      worker.end();
      throw error;
    }
    return worker;
  }

  /// RGBA of images of latents; `urgent` ones come before others that wait. Where `wanted` says no by the time it is their turn, null.
  make(latents, { urgent = false, wanted = () => true } = {}) {
    return new Promise((resolve, reject) => {
      const job = { latents, wanted, resolve, reject };
      if (urgent) this.queue.unshift(job);
      else this.queue.push(job);
      this.next();
    });
  }

  async next() {
    const worker = this.workers.find((worker) => !worker.busy);
    if (!worker || this.queue.length === 0) return;
    const { latents, wanted, resolve, reject } = this.queue.shift();
    if (this.closed || !wanted()) {
      resolve(null);
      return this.next();
    }
    const { size } = this.generator.latent;
    const block = new Float32Array(latents.length * size);
    latents.forEach((latent, at) => block.set(latent, at * size));
    worker.busy = true;
    try {
      const { pixels } = await worker.ask({ kind: 'make', latents: block, n: latents.length }, [block.buffer]);
      const { width, height } = this.generator;
      const image = width * height * 4;
      resolve(latents.map((_, at) => new ImageData(pixels.slice(at * image, (at + 1) * image), width, height)));
    } catch (error) {
      // Another engine took over: nobody waits for this one's images.
      if (this.closed) resolve(null);
      else reject(error);
    }
    worker.busy = false;
    this.next();
  }

  close() {
    this.closed = true;
    this.workers.forEach((worker) => worker.end());
    this.queue.splice(0).forEach(({ resolve }) => resolve(null));
  }
}

class EngineWorker {
  constructor() {
    this.busy = false;
    this.waiting = new Map();
    this.asked = 0;
    this.worker = new Worker('worker.js', { type: 'module' });
    this.worker.addEventListener('message', ({ data }) => {
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error === undefined) resolve(data);
      else reject(new Error(data.error));
    });
    this.worker.addEventListener('error', (event) => {
      event.preventDefault();
      this.fail(event.message || 'worker.js cannot be loaded');
    });
    this.worker.addEventListener('messageerror', () => this.fail('there is not enough memory'));
  }

  ask(message, transfer = []) {
    const id = this.asked++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ ...message, id }, transfer);
    });
  }

  fail(why) {
    this.waiting.forEach(({ reject }) => reject(new Error(why)));
    this.waiting.clear();
  }

  end() {
    this.worker.terminate();
    this.fail('ended');
  }
}
