// The page: a sheet of images, one of them with its neighbours, and the way between two.
import { MAX_NUMBER, MAX_SEED, classOf, interpolate, latent, truncate, withClass } from './latents.js';
import { open } from './engine.js';

/// Images that a sheet begins with at least, and that "More" adds; rows are filled.
const SHEET = 48;
/// Images that a worker makes at a time: few, so that they appear soon.
const AT_A_TIME = 8;
/// Pixels of the border between images on a sheet, and its grey: those of `gan-infer --format grid`.
const GAP = 2;
const GREY = '#808080';
/// Seconds from A to B when it plays.
const SECONDS = 3;
const NEIGHBOURS = 8;

const $ = (id) => document.getElementById(id);

let generator;
let images;
/// Which images: seed and number of the sheet's first, whether it goes on by numbers or by seeds, truncation and class (null: none).
const state = { seed: 0n, start: 0n, sheetOf: 'images', truncation: null, class: null };
/// Counts up whenever these change: what was asked for before is not wanted any more.
let version = 0;
/// The ends of the way between two: latents with a label; `chosen` by the visitor, or the sheet's first two.
const ends = { a: null, b: null, chosen: false };
/// The image that is looked at: its place on the sheet, latent and label, and how many neighbours it was reached by.
let one = null;

// ---- What the images are ----

/// Seed and number of the image at a place of the sheet; null beyond the last there is.
function cell(place) {
  const by = BigInt(place);
  const [seed, number] = state.sheetOf === 'images' ? [state.seed, state.start + by] : [state.seed + by, state.start];
  return seed <= MAX_SEED && number <= MAX_NUMBER ? { seed, number } : null;
}

/// The latent as the generator gets it: truncated, and of the class that was asked for.
function conditioned({ seed, number }, wanted = state.class) {
  let z = latent(generator.latent, seed, number);
  if (state.truncation !== null) z = truncate(generator.latent, z, state.truncation);
  return wanted === null ? z : withClass(z, wanted, generator.classes);
}

const className = (number) => generator.classNames[number] ?? String(number);

function labelOf({ seed, number }, z) {
  const name = state.sheetOf === 'images' ? `Image ${number} of seed ${seed}` : `Seed ${seed}, image ${number}`;
  return generator.classes > 0 ? `${name}, class ${className(classOf(z, generator.classes))}` : name;
}

// ---- Drawing ----

function sized(canvas) {
  [canvas.width, canvas.height] = [generator.width, generator.height];
  return canvas;
}

const draw = (canvas, image) => canvas.getContext('2d', { willReadFrequently: true }).putImageData(image, 0, 0);

function download(canvas, name) {
  canvas.toBlob((blob) => {
    const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(blob), download: `${fileName(name)}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, 'image/png');
}

const fileName = (text) => `${generator.name} ${text}`.toLowerCase().replace(/[^a-z0-9.]+/g, '-').replace(/^[-.]+|-+$/g, '');

function say(text) {
  $('status').textContent = text;
}

function tell(error) {
  const text = error === null ? '' : String(error.message ?? error);
  $('trouble').textContent = text;
  $('trouble').hidden = text === '';
}

// ---- The sheet ----

/// The last that was drawn, by place: latents.
let drawn = [];

async function sheet() {
  version += 1;
  drawn = [];
  $('sheet').replaceChildren();
  remember();
  if (!ends.chosen) firstEnds();
  await more();
}

async function more() {
  const now = version;
  const wanted = () => version === now;
  const before = drawn.length;
  const began = performance.now();
  const columns = getComputedStyle($('sheet')).gridTemplateColumns.split(' ').length;
  const end = Math.ceil((before + SHEET) / columns) * columns;
  const cells = [];
  for (let place = before; place < end && cell(place); place++) cells.push(addCell(place));
  $('more').hidden = cell(end) === null;
  // The first alone, for it to be there soon.
  const cuts = [before === 0 ? 1 : 0];
  while (cuts.at(-1) < cells.length) cuts.push(Math.min(cells.length, cuts.at(-1) + atATime()));
  if (before === 0) cuts.unshift(0);
  const parts = cuts.slice(1).map((end, at) => cells.slice(cuts[at], end));
  await Promise.all(parts.map((part) => drawCells(part, wanted)));
  if (!wanted()) return;
  const rate = cells.length / ((performance.now() - began) / 1000);
  performance.measure('sheet', { start: began, detail: { images: cells.length } });
  const what = state.sheetOf === 'images' ? `Images ${state.start} to ${state.start + BigInt(drawn.length - 1)} of seed ${state.seed}`
    : `Image ${state.start} of seeds ${state.seed} to ${state.seed + BigInt(drawn.length - 1)}`;
  const workers = images.size > 1 ? `, ${images.size} workers` : '';
  const { name, precision } = images.parts.engine;
  say(`${what}: ${Math.round(rate)} images a second in ${precision} by ${name}${workers}.`);
}

const atATime = () => Math.max(1, Math.min(AT_A_TIME, Math.floor((AT_A_TIME * 64 * 64) / (generator.width * generator.height))));

function addCell(place) {
  const where = cell(place);
  const z = conditioned(where);
  drawn.push(z);
  const canvas = sized(document.createElement('canvas'));
  const button = document.createElement('button');
  button.type = 'button';
  button.tabIndex = place === 0 ? 0 : -1;
  button.setAttribute('aria-label', labelOf(where, z));
  button.title = labelOf(where, z);
  button.addEventListener('click', () => look(place));
  button.append(canvas);
  const item = document.createElement('li');
  item.append(button);
  $('sheet').append(item);
  return { z, canvas };
}

async function drawCells(cells, wanted) {
  if (cells.length === 0) return;
  const made = await images.make(cells.map(({ z }) => z), { wanted });
  made?.forEach((image, at) => draw(cells[at].canvas, image));
  if (made && performance.getEntriesByName('first-image').length === 0) performance.mark('first-image');
  if (made) cells.forEach(({ canvas }) => (canvas.dataset.drawn = ''));
}

/// The arrow keys go over the sheet; one image of it is in the order of the tab key.
function moveOnSheet(event) {
  const buttons = [...$('sheet').querySelectorAll('button')];
  const at = buttons.indexOf(document.activeElement);
  if (at < 0) return;
  const columns = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: buttons.length - 1 - at };
  const to = buttons[at + steps[event.key]];
  if (!(event.key in steps) || !to) return;
  event.preventDefault();
  buttons[at].tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

/// All images of the sheet in one, as `gan-infer --format grid` puts them.
function saveSheet() {
  const all = [...$('sheet').querySelectorAll('canvas')];
  const columns = Math.ceil(Math.sqrt(all.length));
  const [width, height] = [generator.width + GAP, generator.height + GAP];
  const whole = document.createElement('canvas');
  [whole.width, whole.height] = [columns * width + GAP, Math.ceil(all.length / columns) * height + GAP];
  const paint = whole.getContext('2d');
  paint.fillStyle = GREY;
  paint.fillRect(0, 0, whole.width, whole.height);
  all.forEach((canvas, at) => paint.drawImage(canvas, (at % columns) * width + GAP, Math.floor(at / columns) * height + GAP));
  download(whole, `seed ${state.seed} sheet from ${state.start}`);
}

// ---- One image and its neighbours ----

function look(place) {
  const where = cell(place);
  const z = drawn[place];
  one = { place, where, z, label: labelOf(where, z), steps: 0 };
  if (!$('one').open) $('one').showModal();
  showOne();
}

function showOne() {
  $('one-title').textContent = one.label;
  $('one-image').setAttribute('aria-label', one.label);
  $('one-before').disabled = one.place === 0;
  $('one-after').disabled = one.place + 1 >= drawn.length;
  redraw($('one-image'), one.z);
  showNeighbours();
}

/// Latents a part of the way to others of the same class: each step away has others.
function neighbours() {
  const distance = Number($('distance').value);
  const itsClass = generator.classes > 0 ? classOf(one.z, generator.classes) : null;
  return Array.from({ length: NEIGHBOURS }, (_, at) => {
    const number = MAX_NUMBER - BigInt(one.steps * NEIGHBOURS + at);
    return interpolate(generator.latent, one.z, conditioned({ seed: one.where.seed, number }, itsClass), distance);
  });
}

async function showNeighbours() {
  $('distance-value').textContent = `${Math.round(100 * Number($('distance').value))} %`;
  const shown = one;
  const distance = $('distance').value;
  const wanted = () => one === shown && $('distance').value === distance;
  const all = neighbours();
  const list = $('neighbours');
  while (list.children.length < all.length) {
    const at = list.children.length;
    const button = Object.assign(document.createElement('button'), { type: 'button' });
    button.setAttribute('aria-label', `Neighbour ${at + 1}`);
    button.append(sized(document.createElement('canvas')));
    button.addEventListener('click', () => goTo(neighbours()[at]));
    const item = document.createElement('li');
    item.append(button);
    list.append(item);
  }
  const made = await make(all, { urgent: true, wanted });
  made?.forEach((image, at) => wanted() && draw(list.children[at].querySelector('canvas'), image));
}

function goTo(z) {
  const steps = one.steps + 1;
  const label = `${steps === 1 ? 'One step' : `${steps} steps`} from ${labelOf(one.where, drawn[one.place]).toLowerCase()}`;
  one = { ...one, z, steps, label };
  showOne();
}

function chooseEnd(which) {
  ends[which] = { z: one.z, label: one.label };
  ends.chosen = true;
  showEnds();
  $('one').close();
  $('between-section').scrollIntoView({ block: 'nearest' });
}

// ---- Between two ----

function firstEnds() {
  const [a, b] = [cell(0), cell(1) ?? cell(0)];
  ends.a = { z: conditioned(a), label: labelOf(a, conditioned(a)) };
  ends.b = { z: conditioned(b), label: labelOf(b, conditioned(b)) };
  showEnds();
}

function newPair() {
  const any = () => {
    const where = { seed: state.seed, number: BigInt(Math.floor(Math.random() * 1e6)) };
    const z = conditioned(where);
    return { z, label: labelOf(where, z) };
  };
  Object.assign(ends, { a: any(), b: any(), chosen: true });
  showEnds();
}

function showEnds() {
  for (const which of ['a', 'b']) {
    const button = $(`end-${which}`);
    button.querySelector('span').textContent = which.toUpperCase();
    button.setAttribute('aria-label', `Go to ${which.toUpperCase()}: ${ends[which].label}`);
    button.title = ends[which].label;
    redraw(button.querySelector('canvas'), ends[which].z);
  }
  showBetween();
}

const between = () => interpolate(generator.latent, ends.a.z, ends.b.z, Number($('way').value));

async function showBetween() {
  const way = $('way').value;
  $('way').setAttribute('aria-valuetext', `${Math.round(100 * Number(way))} %`);
  await redraw($('between'), between());
}

let playing = null;

function play() {
  if (playing !== null) {
    cancelAnimationFrame(playing.next);
    playing = null;
  } else {
    const began = performance.now() - Number($('way').value) * 1000 * SECONDS;
    // One frame after the other, as fast as they are made.
    const frame = async (now) => {
      const turn = ((now - began) / 1000 / SECONDS) % 2;
      $('way').value = String(turn > 1 ? 2 - turn : turn);
      await showBetween();
      if (playing === mine) mine.next = requestAnimationFrame(frame);
    };
    // Pausing and playing again while an image is awaited must not leave two.
    const mine = { next: requestAnimationFrame(frame) };
    playing = mine;
  }
  $('play').setAttribute('aria-pressed', String(playing !== null));
  $('play').textContent = playing === null ? 'Play' : 'Pause';
}

// ---- Asking for images ----

async function make(latents, how) {
  try {
    return await images.make(latents, how);
  } catch (error) {
    if (playing !== null) play();
    tell(error);
    return null;
  }
}

/// What each canvas shows last: a slider that is drawn along asks for more images than are seen.
const latest = new WeakMap();

async function redraw(canvas, z) {
  latest.set(canvas, z);
  const made = await make([z], { urgent: true, wanted: () => latest.get(canvas) === z });
  if (made && latest.get(canvas) === z) draw(canvas, made[0]);
}

// ---- What the visitor sets ----

/// A whole number from 0 to `most` that a field holds; null if it holds none, which is said beside it.
function whole(id, most) {
  const text = $(id).value.trim();
  const good = /^[0-9]{1,20}$/.test(text) && BigInt(text) <= most;
  $(`${id}-wrong`).textContent = good ? '' : `a whole number from 0 to ${most}`;
  $(id).setAttribute('aria-invalid', String(!good));
  return good ? BigInt(text) : null;
}

function numbersChanged() {
  const [seed, start] = [whole('seed', MAX_SEED), whole('start', MAX_NUMBER)];
  if (seed === null || start === null || (seed === state.seed && start === state.start)) return;
  Object.assign(state, { seed, start });
  changed();
}

function seedTo(seed) {
  $('seed').value = String(seed < 0n ? 0n : seed > MAX_SEED ? MAX_SEED : seed);
  numbersChanged();
}

function anySeed() {
  const [a, b] = crypto.getRandomValues(new Uint32Array(2));
  // Ten digits are enough to read out to somebody.
  seedTo(((BigInt(a) << 32n) | BigInt(b)) % 10000000000n);
}

function changed() {
  ends.chosen = false;
  sheet().catch(tell);
}

/// The bound of the slider; at its end there is none.
function truncationOf() {
  const slider = $('truncation');
  return slider.value === slider.max ? null : Number(slider.value);
}

function showTruncation() {
  const bound = truncationOf();
  $('truncation-value').textContent = bound === null ? 'off' : `±${bound.toFixed(2)}`;
  $('truncation').setAttribute('aria-valuetext', $('truncation-value').textContent);
}

/// Keeps in the address what is shown, so that it can be shared.
function remember() {
  const { seed, start, sheetOf, truncation, class: wanted } = state;
  const parts = new URLSearchParams({ seed, start });
  if (sheetOf !== 'images') parts.set('sheet', sheetOf);
  if (truncation !== null) parts.set('truncation', truncation);
  if (wanted !== null) parts.set('class', wanted);
  history.replaceState(null, '', `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const number = (name, most) => (/^[0-9]{1,20}$/.test(parts.get(name) ?? '') && BigInt(parts.get(name)) <= most ? BigInt(parts.get(name)) : 0n);
  state.seed = number('seed', MAX_SEED);
  state.start = number('start', MAX_NUMBER);
  state.sheetOf = parts.get('sheet') === 'seeds' ? 'seeds' : 'images';
  const bound = Number(parts.get('truncation') ?? NaN);
  const slider = $('truncation');
  slider.value = bound > 0 ? bound : slider.max;
  state.truncation = truncationOf();
  const wanted = Number(parts.get('class') ?? NaN);
  state.class = Number.isInteger(wanted) && wanted >= 0 && wanted < generator.classes ? wanted : null;
  $('seed').value = state.seed;
  $('start').value = state.start;
  $('sheet-of').value = state.sheetOf;
  const choice = document.querySelector(`input[name=class][value="${state.class ?? ''}"]`);
  if (choice) choice.checked = true;
  showTruncation();
}

function choices(place, name, all) {
  for (const [value, text] of all) {
    const input = Object.assign(document.createElement('input'), { type: 'radio', name, value });
    const span = document.createElement('span');
    span.textContent = text;
    const label = document.createElement('label');
    label.append(input, span);
    place.append(label);
  }
}

function describe() {
  $('name').textContent = generator.name;
  document.title = generator.name;
  const { width, height, channels } = generator;
  $('about').textContent = generator.about || `Images of ${width} × ${height} ${channels === 1 ? 'grey' : 'colour'} pixels.`;
  for (const [key, value] of generator.facts) {
    const [fact, term, text] = ['div', 'dt', 'dd'].map((name) => document.createElement(name));
    [term.textContent, text.textContent] = [key, value];
    fact.append(term, text);
    $('facts').append(fact);
  }
  document.body.classList.toggle('small', Math.max(width, height) <= 32);
  const [min, max, step] = generator.latent.distribution === 'uniform' ? [0.05, 1, 0.05] : [0.1, 4, 0.1];
  Object.assign($('truncation'), { min, max, step });
  if (generator.classes > 0) {
    const numbered = Array.from({ length: generator.classes }, (_, number) => [number, className(number)]);
    choices($('classes'), 'class', [['', 'any'], ...numbered]);
    $('class-field').hidden = false;
  }
  $('engine-field').hidden = !generator.engines.webgpu;
  sized($('between'));
  sized($('one-image'));
  for (const which of ['a', 'b']) sized($(`end-${which}`).querySelector('canvas'));
}

function listen() {
  const on = (id, type, act) => $(id).addEventListener(type, act);
  $('controls').addEventListener('submit', (event) => {
    event.preventDefault();
    numbersChanged();
  });
  on('seed', 'change', numbersChanged);
  on('start', 'change', numbersChanged);
  on('seed-down', 'click', () => seedTo(state.seed - 1n));
  on('seed-up', 'click', () => seedTo(state.seed + 1n));
  on('seed-any', 'click', anySeed);
  on('sheet-of', 'change', () => {
    state.sheetOf = $('sheet-of').value;
    changed();
  });
  on('truncation', 'input', showTruncation);
  on('truncation', 'change', () => {
    state.truncation = truncationOf();
    changed();
  });
  on('classes', 'change', ({ target }) => {
    state.class = target.value === '' ? null : Number(target.value);
    changed();
  });
  on('engine-field', 'change', ({ target }) => compute(target.value));
  on('more', 'click', () => more().catch(tell));
  on('save-sheet', 'click', saveSheet);
  on('sheet', 'keydown', moveOnSheet);
  on('one-close', 'click', () => $('one').close());
  on('one', 'close', () => document.querySelectorAll('#sheet button')[one.place]?.focus());
  on('one', 'click', (event) => event.target === $('one') && $('one').close());
  on('one', 'keydown', (event) => {
    if (event.target.type === 'range') return;
    if (event.key === 'ArrowLeft' && !$('one-before').disabled) look(one.place - 1);
    if (event.key === 'ArrowRight' && !$('one-after').disabled) look(one.place + 1);
  });
  on('one-before', 'click', () => look(one.place - 1));
  on('one-after', 'click', () => look(one.place + 1));
  on('one-a', 'click', () => chooseEnd('a'));
  on('one-b', 'click', () => chooseEnd('b'));
  on('one-save', 'click', () => download($('one-image'), one.label));
  on('distance', 'input', showNeighbours);
  on('way', 'input', showBetween);
  on('end-a', 'click', () => wayTo(0));
  on('end-b', 'click', () => wayTo(1));
  on('play', 'click', play);
  on('swap', 'click', newPair);
  on('save-between', 'click', () => download($('between'), `${Math.round(100 * Number($('way').value))} of the way from ${ends.a.label} to ${ends.b.label}`));
  addEventListener('hashchange', () => {
    recall();
    changed();
  });
}

function wayTo(end) {
  $('way').value = String(end);
  showBetween();
}

// ---- Beginning ----

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

function loading({ done, total }) {
  const bar = $('progress');
  bar.hidden = done === total;
  Object.assign(bar, { max: total, value: done });
  // In words once: what reads the page aloud would read every change.
  const text = done === total ? 'Starting the generator.' : `Loading onnxruntime-web and the generator, ${megabytes(total)} MB.`;
  if ($('status').textContent !== text) say(text);
}

/// Counts up with each choice of what computes: of two that overlap, the later one holds.
let choice = 0;

/// Exchanges what the images are computed by. What cannot be had is told, and the one before goes on.
async function compute(kind) {
  const mine = ++choice;
  tell(null);
  try {
    if (kind === 'webgpu' && !(await navigator.gpu?.requestAdapter())) {
      throw new Error('this browser has none, or none for this device');
    }
    const next = await open(generator, kind, loading);
    if (mine !== choice) return next.close();
    images?.close();
    images = next;
  } catch (error) {
    if (mine !== choice) return;
    if (kind !== 'webgpu') return tell(error);
    tell(`WebGPU does not work here, so WebAssembly goes on: ${error.message}.`);
    document.querySelector('input[name=engine][value=wasm]').checked = true;
    $('progress').hidden = true;
  }
  await sheet();
  await images.grow();
}

async function begin() {
  const response = await fetch('generator.json');
  if (!response.ok) throw new Error(`generator.json cannot be loaded: the server answers ${response.status}. Copy the page's whole folder there.`);
  generator = await response.json();
  describe();
  recall();
  images = await open(generator, 'wasm', loading);
  listen();
  recall(); // the address may have changed meanwhile
  for (const id of ['controls', 'sheet-section', 'between-section']) $(id).inert = false;
  await sheet();
  await images.grow();
}

begin().catch((error) => {
  say('The generator could not be loaded.');
  $('progress').hidden = true;
  tell(error);
});
