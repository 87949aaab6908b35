// Drives headless Chromium by its DevTools protocol through a pipe: no packages, and no port that others could reach.
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/// Starts the first browser there is; `null` where there is none.
export async function start(flags = []) {
  for (const name of process.env.CHROMIUM ? [process.env.CHROMIUM] : NAMES) {
    const browser = await started(name, flags);
    if (browser) return browser;
  }
  return null;
}

async function started(name, flags) {
  const profile = await mkdtemp(join(tmpdir(), 'ganforge-page-'));
  const fixed = ['--headless=new', '--remote-debugging-pipe', `--user-data-dir=${profile}`, '--no-first-run', '--disable-extensions',
    '--disable-background-networking', '--hide-scrollbars', '--disable-dev-shm-usage', '--mute-audio'];
  // Root has no sandbox; the pages here are our own.
  const root = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  const child = spawn(name, [...fixed, ...root, ...flags, 'about:blank'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
  const there = await new Promise((resolve) => {
    child.once('error', () => resolve(false));
    child.once('spawn', () => resolve(true));
  });
  if (!there) {
    await rm(profile, { recursive: true, force: true });
    return null;
  }
  return new Browser(child, profile);
}

class Browser {
  constructor(child, profile) {
    this.child = child;
    this.profile = profile;
    this.next = 1;
    this.waiting = new Map();
    this.listeners = [];
    this.ended = new Promise((resolve) => child.once('exit', resolve));
    this.ended.then(() => this.waiting.forEach(({ reject }) => reject(new Error('the browser has ended'))));
    child.stdio[3].on('error', () => {});
    let text = Buffer.alloc(0);
    child.stdio[4].on('data', (bytes) => {
      text = Buffer.concat([text, bytes]);
      for (let end = text.indexOf(0); end >= 0; end = text.indexOf(0)) {
        const message = JSON.parse(text.subarray(0, end).toString());
        text = text.subarray(end + 1);
        this.hear(message);
      }
    });
  }

  hear(message) {
    const waiting = this.waiting.get(message.id);
    if (!waiting) return this.listeners.forEach((listen) => listen(message));
    this.waiting.delete(message.id);
    if (message.error) waiting.reject(new Error(`${waiting.method}: ${message.error.message}`));
    else waiting.resolve(message.result);
  }

  send(method, params = {}, sessionId = undefined) {
    const id = this.next++;
    this.child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.waiting.set(id, { method, resolve, reject }));
  }

  /// A new tab of a size in CSS pixels. What its scripts report as errors is in `tab.errors`.
  async tab({ width = 1280, height = 900, mobile = false, scale = 1 } = {}) {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const tab = new Tab(this, targetId, sessionId);
    await tab.send('Page.enable');
    await tab.send('Runtime.enable');
    await tab.send('Log.enable');
    await tab.send('Emulation.setDeviceMetricsOverride', { width, height, mobile, deviceScaleFactor: scale });
    if (mobile) await tab.send('Emulation.setTouchEmulationEnabled', { enabled: true });
    return tab;
  }

  async close() {
    this.send('Browser.close').catch(() => {});
    const late = setTimeout(() => this.child.kill('SIGKILL'), 5000);
    await this.ended;
    clearTimeout(late);
    await rm(this.profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

class Tab {
  constructor(browser, targetId, sessionId) {
    Object.assign(this, { browser, targetId, sessionId, errors: [], loaded: [] });
    browser.listeners.push((message) => message.sessionId === sessionId && this.hear(message));
  }

  hear({ method, params }) {
    if (method === 'Page.loadEventFired') this.loaded.splice(0).forEach((resolve) => resolve());
    if (method === 'Runtime.exceptionThrown') {
      this.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    }
    if (method === 'Runtime.consoleAPICalled' && params.type === 'error') {
      this.errors.push(params.args.map((arg) => arg.value ?? arg.description).join(' '));
    }
    if (method === 'Log.entryAdded' && params.entry.level === 'error') this.errors.push(`${params.entry.text} ${params.entry.url ?? ''}`);
  }

  send(method, params) {
    return this.browser.send(method, params, this.sessionId);
  }

  /// Opens an address; waits for its load event.
  async open(url) {
    const loaded = new Promise((resolve) => this.loaded.push(resolve));
    await this.send('Page.navigate', { url });
    await loaded;
  }

  /// The value of an expression, awaited if it is a promise.
  async value(expression) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /// Waits until an expression is true.
  async until(expression, seconds = 60) {
    const end = Date.now() + 1000 * seconds;
    while (!(await this.value(expression))) {
      if (Date.now() > end) throw new Error(`not within ${seconds} s: ${expression}\n${this.errors.join('\n')}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /// Presses a key, as a person does.
  async press(key, code = key, keyCode = 0, text = undefined) {
    const event = { key, code, windowsVirtualKeyCode: keyCode, nativeVirtualKeyCode: keyCode, text };
    await this.send('Input.dispatchKeyEvent', { type: 'keyDown', ...event });
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', ...event });
  }

  /// A PNG of what is seen, or of the whole page.
  async screenshot(whole = false) {
    const { data } = await this.send('Page.captureScreenshot', { format: 'png', captureBeyondViewport: whole });
    return Buffer.from(data, 'base64');
  }

  async close() {
    await this.browser.send('Target.closeTarget', { targetId: this.targetId });
  }
}
