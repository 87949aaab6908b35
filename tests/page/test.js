// The page in headless Chromium: its pixels against gan-infer's, its controls by keyboard and by touch, and what it says where something
// is missing. `node tests/page/test.js GAN-INFER [--onnxruntime-web DIR] [--measure] [--screens DIR]`
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { start } from './chromium.js';
import { serve } from './server.js';

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: { 'onnxruntime-web': { type: 'string' }, measure: { type: 'boolean' }, screens: { type: 'string' } },
});
const [program] = positionals;
const work = mkdtempSync(join(tmpdir(), 'ganforge-page-test-'));
const DRAWN = `document.querySelectorAll('#sheet canvas[data-drawn]').length`;
const READY = `${DRAWN} > 0 && ${DRAWN} === document.querySelectorAll('#sheet canvas').length && document.getElementById('status').textContent.includes('a second')`;
const TROUBLE = `document.getElementById('trouble').textContent`;

function infer(...args) {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/// A page in a folder of its own; onnxruntime-web comes from the first one, once there is one.
let first = flags['onnxruntime-web'];
function page(name, ...args) {
  const folder = join(work, name);
  try {
    infer('page', '--out', folder, ...(first ? ['--onnxruntime-web', first] : ['--npm']), ...args);
  } catch (error) {
    // Without a network; another checksum is no reason to skip.
    if (/npm could not fetch/.test(error.stderr)) throw new Skipped(error.stderr.trim());
    throw error;
  }
  first ??= folder;
  return folder;
}

class Skipped extends Error {}

/// The pixels of an array file of gan-infer's, image by image.
function images(...args) {
  const file = join(work, 'images.npy');
  infer('--out', file, '--provider', 'cpu', '--force', '--quiet', ...args);
  const bytes = readFileSync(file);
  const header = bytes.readUInt16LE(8);
  const shape = /'shape': \(([0-9, ]+)\)/.exec(bytes.toString('latin1', 10, 10 + header))[1].split(',').map(Number);
  const size = shape[1] * shape[2] * shape[3];
  return { n: shape[0], channels: shape[3], image: (at) => bytes.subarray(10 + header + at * size, 10 + header + (at + 1) * size) };
}

/// The largest difference between what the first canvases of the sheet show and the images of gan-infer; and how many values differ.
async function compare(tab, theirs) {
  const encoded = await tab.value(`[...document.querySelectorAll('#sheet canvas')].slice(0, ${theirs.n}).map((canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let text = '';
    for (const byte of data) text += String.fromCharCode(byte);
    return btoa(text);
  })`);
  assert.equal(encoded.length, theirs.n);
  let [largest, differ] = [0, 0];
  encoded.forEach((text, at) => {
    const [ours, theirImage] = [Buffer.from(text, 'base64'), theirs.image(at)];
    assert.equal((ours.length / 4) * theirs.channels, theirImage.length);
    for (let i = 0; i < theirImage.length; i++) {
      const [pixel, channel] = [Math.floor(i / theirs.channels), i % theirs.channels];
      const difference = Math.abs(ours[pixel * 4 + channel] - theirImage[i]);
      largest = Math.max(largest, difference);
      differ += difference > 0 ? 1 : 0;
    }
  });
  return { largest, differ };
}

async function same(tab, what, ...args) {
  const theirs = images(...args);
  for (;;) {
    await tab.until(READY);
    if ((await tab.value(DRAWN)) >= theirs.n) break;
    await tab.value(`document.getElementById('more').click()`);
  }
  const { largest, differ } = await compare(tab, theirs);
  console.log(`${what}: ${theirs.n} images, largest difference ${largest}, ${differ} values differ`);
  assert.ok(largest <= 1, what);
}

async function ready(browser, url, options) {
  const tab = await browser.tab(options);
  await tab.open(url);
  await tab.until(`${READY} || ${TROUBLE} !== ''`);
  assert.equal(await tab.value(TROUBLE), '');
  return tab;
}

async function screen(tab, name, whole = false) {
  if (!flags.screens) return;
  mkdirSync(flags.screens, { recursive: true });
  writeFileSync(join(flags.screens, `${name}.png`), await tab.screenshot(whole));
}

/// Seconds to the first image, and images a second of a sheet once the workers are warm; each generator in turn, three rounds.
async function measureAll(browser) {
  const kinds = ['faces', 'digits'].flatMap((name) => ['int8', 'f32'].map((precision) => ({ name, precision })));
  for (const kind of kinds) kind.server = await serve(page(`${kind.name}-${kind.precision}`, kind.name, '--precision', kind.precision));
  for (let round = 1; round <= 3; round++) {
    for (const { name, precision, server } of kinds) console.log(`round ${round}, ${name} in ${precision}: ${await measure(browser, server.url)}`);
  }
  kinds.forEach(({ server }) => server.close());
}

async function measure(browser, url) {
  const tab = await ready(browser, url);
  const began = await tab.value(`performance.getEntriesByName('first-image')[0].startTime / 1000`);
  const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  await pause(2000);
  for (let more = 0; more < 8; more++) {
    await tab.value(`document.getElementById('more').click()`);
    await tab.until(READY);
    await pause(200);
  }
  const sheets = await tab.value(`performance.getEntriesByName('sheet').map(({ detail, duration }) => detail.images / (duration / 1000))`);
  await tab.close();
  const warm = sheets.slice(3).sort((a, b) => a - b);
  return `first image after ${began.toFixed(2)} s, then ${Math.round(warm[Math.floor(warm.length / 2)])} images/s`;
}

// ---- What is tried ----

async function pixels(browser, name, folder) {
  const server = await serve(folder);
  const tab = await ready(browser, server.url);
  await same(tab, `${name}, seed 0`, '--model', name, '--n', '100');
  assert.deepEqual(tab.errors, []);
  assert.ok(server.asked.every((path) => !path.includes('asyncify')), 'WebGPU is loaded where nobody asks for it');
  await tab.close();
  server.close();
}

/// Generators of other forms: floats with the channels first, a batch that the file fixes.
async function forms(browser) {
  for (const name of ['sealed', 'stranger_nchw_f32', 'stranger_fixed_u8']) {
    const file = fileURLToPath(new URL(`../golden/${name}.onnx`, import.meta.url));
    const range = name.endsWith('f32') ? ['--range', 'tanh'] : [];
    const server = await serve(page(name, file, ...range));
    const tab = await ready(browser, `${server.url}#seed=3&truncation=0.8`);
    await same(tab, name, '--model', file, '--n', '48', '--seed', '3', '--truncation', '0.8', ...range);
    await tab.close();
    server.close();
  }
}

async function large(browser, folder) {
  const server = await serve(folder);
  const [seed, start] = ['18446744073709551000', '9223372036854775000'];
  const numbers = await ready(browser, `${server.url}#seed=${seed}&start=${start}&class=7&truncation=1.5`);
  await same(numbers, 'large numbers, class 7, truncation 1.5', '--model', 'digits', '--seed', seed, '--start', start, '--n', '48', '--class', '7', '--truncation', '1.5');
  await numbers.close();
  const seeds = await ready(browser, `${server.url}#seed=9007199254740993&start=3&sheet=seeds`);
  await same(seeds, 'one image of each of many seeds', '--model', 'digits', '--seeds', '9007199254740993-9007199254741040', '--start', '3');
  await seeds.close();
  server.close();
}

/// All of it by the keyboard.
async function keyboard(browser, folder) {
  const server = await serve(folder);
  const tab = await ready(browser, server.url);
  await screen(tab, 'digits-1280');
  const names = (await tab.send('Accessibility.getFullAXTree')).nodes
    .filter(({ ignored, role }) => !ignored && ['button', 'textbox', 'slider', 'radio', 'combobox', 'image', 'dialog'].includes(role?.value))
    .map(({ name, role }) => [role.value, name?.value ?? '']);
  assert.ok(names.length > 60, 'too few controls are named');
  assert.deepEqual(names.filter(([, name]) => name === ''), []);

  await tab.value(`document.querySelector('#sheet button').focus()`);
  await tab.press('ArrowRight', 'ArrowRight', 39);
  await tab.press('ArrowDown', 'ArrowDown', 40);
  const label = await tab.value(`document.activeElement.getAttribute('aria-label')`);
  assert.match(label, /^Image [0-9]+ of seed 0, class [0-9]$/);
  assert.notEqual(label.split(' ')[1], '1');
  await tab.press('Enter', 'Enter', 13, '\r');
  await tab.until(`document.getElementById('one').open`);
  assert.equal(await tab.value(`document.getElementById('one-title').textContent`), label);
  await tab.until(`document.querySelectorAll('#neighbours canvas').length === 8`);
  await tab.press('ArrowRight', 'ArrowRight', 39);
  const next = await tab.value(`document.getElementById('one-title').textContent`);
  assert.equal(next.split(' ')[1], String(Number(label.split(' ')[1]) + 1));
  await tab.value(`document.querySelectorAll('#neighbours button')[2].click()`);
  assert.match(await tab.value(`document.getElementById('one-title').textContent`), /^One step from image/);
  await tab.value(`new Promise((resolve) => setTimeout(resolve, 500))`);
  await screen(tab, 'digits-1280-one');
  await tab.press('Escape', 'Escape', 27);
  await tab.until(`!document.getElementById('one').open`);
  assert.equal(await tab.value(`document.activeElement.getAttribute('aria-label')`), next);

  // The middle between two changes while it plays, and stands still after that.
  const middle = `document.getElementById('between').toDataURL()`;
  const before = await tab.value(middle);
  await tab.value(`document.getElementById('play').focus()`);
  await tab.press(' ', 'Space', 32, ' ');
  await tab.until(`${middle} !== ${JSON.stringify(before)}`);
  await tab.press(' ', 'Space', 32, ' ');
  await tab.value(`new Promise((resolve) => setTimeout(resolve, 500))`);
  const after = await tab.value(middle);
  assert.equal(await tab.value(`new Promise((resolve) => setTimeout(() => resolve(${middle}), 500))`), after);
  // At its ends it is A and B.
  await tab.value(`document.getElementById('end-b').click()`);
  await tab.until(`${middle} === document.querySelector('#end-b canvas').toDataURL()`);
  assert.equal(await tab.value(`document.querySelector('#end-b canvas').toDataURL() === document.querySelectorAll('#sheet canvas')[1].toDataURL()`), true);

  // Another seed, typed; a wrong one is told and changes nothing.
  await tab.value(`document.getElementById('seed').select(); document.getElementById('seed').focus()`);
  for (const digit of '12') await tab.press(digit, `Digit${digit}`, 48 + Number(digit), digit);
  await tab.press('Enter', 'Enter', 13, '\r');
  await tab.until(`location.hash.includes('seed=12') && ${READY}`);
  await tab.value(`document.getElementById('seed').value = '18446744073709551616'; document.getElementById('seed').dispatchEvent(new Event('change'))`);
  assert.match(await tab.value(`document.getElementById('seed-wrong').textContent`), /from 0 to 18446744073709551615/);
  assert.match(await tab.value(`location.hash`), /seed=12/);

  // A downloaded image is a PNG of its size.
  const downloads = join(work, 'downloads');
  await browser.send('Browser.setDownloadBehavior', { behavior: 'allow', downloadPath: downloads });
  await tab.value(`document.querySelector('#sheet button').click(); new Promise((resolve) => setTimeout(resolve, 500))`);
  await tab.value(`document.getElementById('one-save').click()`);
  const saved = await eventually(() => readdirSync(downloads).find((name) => name.endsWith('.png')), 'no download');
  assert.match(saved, /^digits-image-0-of-seed-12-class-[0-9]\.png$/);
  const png = readFileSync(join(downloads, saved));
  assert.deepEqual([png.toString('latin1', 1, 4), png.readUInt32BE(16), png.readUInt32BE(20)], ['PNG', 28, 28]);
  assert.deepEqual(tab.errors, []);
  await tab.close();
  server.close();
  console.log(`keyboard, names of ${names.length} controls, download: as they should be`);
}

async function eventually(look, what) {
  for (let wait = 0; wait < 100; wait++) {
    try {
      const found = look();
      if (found) return found;
    } catch {
      // not there yet
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(what);
}

async function phone(browser, folder, name) {
  const server = await serve(folder);
  const tab = await ready(browser, server.url, { width: 390, height: 844, mobile: true, scale: 2 });
  await screen(tab, `${name}-390`, true);
  assert.equal(await tab.value(`document.documentElement.scrollWidth`), 390);
  const small = await tab.value(`[...document.querySelectorAll('button, input:not([type=radio]), select, .choices span')]
    .filter((place) => place.checkVisibility()).map((place) => [place.id, place.getBoundingClientRect()])
    .filter(([, { width, height }]) => Math.min(width, height) < 36).map(([id]) => id)`);
  assert.deepEqual(small, []);
  const { x, y } = await tab.value(`(() => { const place = document.querySelectorAll('#sheet button')[5]; place.scrollIntoView({ block: 'center' });
    const { x, y, width } = place.getBoundingClientRect(); return { x: x + width / 2, y: y + width / 2 }; })()`);
  await tab.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints: [{ x, y }] });
  await tab.send('Input.dispatchTouchEvent', { type: 'touchEnd', touchPoints: [] });
  await tab.until(`document.getElementById('one').open`);
  await tab.value(`new Promise((resolve) => setTimeout(resolve, 700))`);
  assert.equal(await tab.value(`document.getElementById('one').scrollWidth <= document.getElementById('one').clientWidth`), true);
  await screen(tab, `${name}-390-one`);
  await tab.close();
  server.close();
  console.log(`${name} on a phone: as it should be`);
}

/// What the page says where something is missing.
async function missing(browser, folder) {
  const broken = join(work, 'broken');
  cpSync(folder, broken, { recursive: true });
  const said = async (url, what, before = '') => {
    const tab = await browser.tab();
    await tab.send('Page.addScriptToEvaluateOnNewDocument', { source: before });
    await tab.open(url);
    await tab.until(`${TROUBLE} !== ''`, 20);
    assert.match(await tab.value(TROUBLE), what);
    await tab.close();
  };
  await said(`file://${broken}/index.html`, /http\.server/);
  const server = await serve(broken);
  await said(server.url, /no WebAssembly/, 'delete globalThis.WebAssembly');
  await said(server.url, /no SIMD/, 'WebAssembly.validate = () => false');
  truncateSync(join(broken, 'generator.onnx'), 1000);
  await said(server.url, /generator\.onnx has 1000 bytes here/);
  rmSync(join(broken, 'generator.onnx'));
  await said(server.url, /generator\.onnx cannot be loaded: the server answers 404/);
  rmSync(join(broken, 'worker.js'));
  cpSync(join(folder, 'generator.onnx'), join(broken, 'generator.onnx'));
  await said(server.url, /worker\.js/);
  rmSync(join(broken, 'app.js'));
  await said(server.url, /app\.js of this page cannot be loaded/);
  server.close();
  console.log('what is missing is told');
}

/// A model whose metadata and name would like to be scripts.
async function hostile(browser) {
  const model = readFileSync(new URL('../../onnx/faces.int8.onnx', import.meta.url));
  const evil = '<img src=x>';
  assert.equal(evil.length, 'anime-faces'.length);
  model.write(evil, model.lastIndexOf('anime-faces'), 'latin1');
  const digits = model.lastIndexOf('ganforge.sha256') + 'ganforge.sha256'.length + 2;
  model.write('0'.repeat(64), digits, 'latin1');
  model.write(createHash('sha256').update(model).digest('hex'), digits, 'latin1');
  const file = join(work, 'hostile.onnx');
  writeFileSync(file, model);
  const title = `<script>document.body.dataset.hit = 1</script><img src=x onerror="document.body.dataset.hit = 1"> ../../..`;
  const server = await serve(page('hostile', file, '--title', title));
  const tab = await ready(browser, server.url);
  assert.equal(await tab.value(`document.getElementById('name').textContent`), title);
  assert.ok((await tab.value(`document.getElementById('facts').textContent`)).includes(evil));
  assert.equal(await tab.value(`document.querySelectorAll('img').length + Object.keys(document.body.dataset).length`), 0);
  await tab.close();
  server.close();
  console.log('texts of a model stay texts');
}

/// WebGPU, where a browser has none and where its own software does it.
async function webgpu(browser, folder) {
  const server = await serve(folder);
  const choose = `document.querySelector('input[name=engine][value=webgpu]').click()`;
  const without = await browser.tab();
  await without.send('Page.addScriptToEvaluateOnNewDocument', { source: `Object.defineProperty(Navigator.prototype, 'gpu', { value: undefined })` });
  await without.open(server.url);
  await without.until(READY);
  await without.value(choose);
  await without.until(`${TROUBLE} !== ''`);
  assert.match(await without.value(TROUBLE), /WebGPU does not work here, so WebAssembly goes on/);
  await without.until(READY);
  await without.close();

  const other = await start(['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', '--enable-features=Vulkan', '--ignore-gpu-blocklist']);
  try {
    const tab = await ready(other, server.url);
    if (await tab.value(`Boolean(navigator.gpu) && navigator.gpu.requestAdapter().then(Boolean)`)) {
      await tab.value(choose);
      await tab.until(`document.getElementById('status').textContent.includes('f32 by WebGPU') && ${READY}`);
      await same(tab, 'digits by WebGPU, in f32', '--model', 'digits', '--n', '48', '--precision', 'f32');
    } else {
      console.log('skipped: this Chromium has no WebGPU in software');
    }
  } finally {
    await other.close();
  }
  server.close();
}

/// Pictures for people: the faces on a desktop, and what README.md shows.
async function screens(browser, { faces, digits }) {
  const [faceServer, digitServer] = [await serve(faces), await serve(digits)];
  await screen(await ready(browser, faceServer.url), 'faces-1280');
  await screen(await ready(browser, `${digitServer.url}#class=7`, { width: 1180, height: 880, scale: 0.5 }), 'readme');
  faceServer.close();
  digitServer.close();
}

async function run() {
  const browser = await start();
  if (!browser) {
    console.log('skipped: there is no Chromium (Debian: apt-get install chromium; CHROMIUM names another)');
    return;
  }
  try {
    console.log((await browser.send('Browser.getVersion')).product);
    if (flags.measure) return await measureAll(browser);
    const folders = { faces: page('faces', 'faces', '--webgpu'), digits: page('digits', 'digits', '--webgpu') };
    for (const [name, folder] of Object.entries(folders)) await pixels(browser, name, folder);
    await forms(browser);
    await large(browser, folders.digits);
    await keyboard(browser, folders.digits);
    if (flags.screens) await screens(browser, folders);
    for (const [name, folder] of Object.entries(folders)) await phone(browser, folder, name);
    await missing(browser, folders.digits);
    await hostile(browser);
    await webgpu(browser, folders.digits);
  } finally {
    await browser.close();
  }
}

try {
  await run();
} catch (error) {
  if (!(error instanceof Skipped)) throw error;
  console.log(`skipped: ${error.message}`);
} finally {
  rmSync(work, { recursive: true, force: true });
}
