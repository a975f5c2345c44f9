// Plays frames: sound at exact times on the audio clock, and each picture when its sound is heard.
//
// One clock rules. Frame n sounds at `zero + n / 25`. A frame that comes too late moves `zero` (time
// stood still, so both stand still); in silence, a picture is skipped if more waits than is needed.

import { Pictures } from "./pictures.js";

export const FRAME_S = 1 / 25;
const RATE = 16000;
const LEAD_S = { least: 0.1, most: 0.4, step: 0.04 };
const SPARE_S = 0.12; // what may wait beyond the lead before silence is shortened
const CALM_FRAMES = 250; // without a stall; then the lead is made shorter again
const PATIENCE_S = 0.25; // how long a picture may be late before the next is shown instead

export class Player {
  constructor(canvas, { onShown, onPlayed, onLevel, onError }) {
    this.canvas = canvas;
    this.paper = canvas.getContext("2d", { alpha: false });
    this.paper.imageSmoothingQuality = "high";
    Object.assign(this, { onShown, onPlayed, onLevel, onError });
    this.context = null;
    this.tick = this.tick.bind(this);
    this.reset();
  }

  /** Must first be called from a click or key: browsers let no page sound unasked. */
  async begin() {
    if (!this.context) {
      this.context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
      this.volume = this.context.createGain();
      this.volume.connect(this.context.destination);
      requestAnimationFrame(this.tick);
    }
    if (this.context.state === "suspended") await this.context.resume();
    this.reset();
  }

  set isAudible(on) {
    if (this.volume) this.volume.gain.value = on ? 1 : 0;
  }

  /** Forgets the session before. */
  reset() {
    this.#silence();
    this.pictures?.close();
    this.pictures = new Pictures((sent, image) => this.#decoded(sent, image), this.onError);
    for (const one of this.queue ?? []) one.image?.close();
    this.queue = [];
    this.bySent = new Map();
    this.zero = null;
    this.lead = LEAD_S.least;
    this.stalledAt = 0;
    this.epoch = 0;
    this.counts = { shown: 0, skipped: 0, stalls: 0, done: 0 };
  }

  take(frame) {
    const one = { ...frame, image: null, at: this.#timeOf(frame) };
    one.isShown = frame.epoch === (this.epoch & 0xffff) && one.at !== null;
    this.bySent.set(frame.sent, one);
    if (one.isShown) {
      this.queue.push(one);
      if (frame.sound) this.#sound(one);
    } else {
      this.#finish(one);
    }
    this.pictures.decode(frame); // also what is not shown: later pictures build on it
    this.#advance();
  }

  /** Stops at once; frames of earlier epochs that still come are not shown. */
  interrupt() {
    this.epoch += 1;
    this.#silence();
    for (const one of this.queue) this.#finish(one);
    this.queue = [];
    this.zero = null;
  }

  tick() {
    this.#advance();
    requestAnimationFrame(this.tick);
  }

  /** When the frame sounds on the audio clock; null if it is skipped. */
  #timeOf(frame) {
    const now = this.context.currentTime;
    const from = frame.number * FRAME_S;
    if (this.zero === null) this.zero = now + this.lead - from;
    const early = this.zero + from - now;
    if (early < 0.005) {
      this.counts.stalls += 1;
      this.stalledAt = frame.sent;
      this.lead = Math.min(this.lead + LEAD_S.step, LEAD_S.most);
      this.zero = now + this.lead - from;
    } else if (!frame.sound && early > this.lead + SPARE_S) {
      this.zero -= FRAME_S;
      this.counts.skipped += 1;
      return null;
    }
    if (frame.sent - this.stalledAt >= CALM_FRAMES) {
      this.lead = Math.max(this.lead - LEAD_S.step, LEAD_S.least);
      this.stalledAt = frame.sent;
    }
    return this.zero + from;
  }

  #sound(one) {
    const buffer = this.context.createBuffer(1, one.sound.length, RATE);
    const samples = buffer.getChannelData(0);
    let power = 0;
    for (let i = 0; i < samples.length; i += 1) {
      samples[i] = one.sound[i] / 32768;
      power += samples[i] ** 2;
    }
    one.level = Math.sqrt(power / samples.length);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.volume);
    source.onended = () => this.sources.delete(source);
    source.start(one.at);
    this.sources.add(source);
  }

  #silence() {
    for (const source of this.sources ?? []) source.stop();
    this.sources = new Set();
  }

  #decoded(sent, image) {
    const one = this.bySent.get(sent);
    if (!one || one.isDone) image.close();
    else one.image = image;
    if (one?.isDone) this.bySent.delete(sent);
  }

  /** Shows the latest picture whose time has come, and lets go of those before it. */
  #advance() {
    if (!this.context) return;
    const heard = this.context.currentTime - (this.context.outputLatency || 0);
    let latest = null;
    while (this.queue.length && this.queue[0].at <= heard) {
      const one = this.queue[0];
      if (!one.image && heard - one.at < PATIENCE_S) break;
      this.queue.shift();
      if (latest) this.#finish(latest);
      latest = one;
    }
    if (latest) this.#show(latest);
  }

  #show(one) {
    if (one.image) {
      const width = one.image.displayWidth ?? one.image.width;
      const height = one.image.displayHeight ?? one.image.height;
      if (this.canvas.width !== width || this.canvas.height !== height) {
        Object.assign(this.canvas, { width, height });
      }
      this.paper.drawImage(one.image, 0, 0);
      this.counts.shown += 1;
      this.onShown(one);
    }
    this.onLevel(one.level ?? 0);
    this.#finish(one);
  }

  #finish(one) {
    one.isDone = true;
    if (one.image) {
      one.image.close();
      one.image = null;
      this.bySent.delete(one.sent);
    }
    this.counts.done += 1;
    this.onPlayed(this.counts.done);
  }
}
