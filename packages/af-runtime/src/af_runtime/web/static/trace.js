// Where the time goes between a sound's arrival and its picture on the screen.

const STAGES = [
  { key: "listen", name: "Listen", hint: "the block fills, and its look-ahead; then its turn" },
  { key: "encode", name: "Encode", hint: "speech to features" },
  { key: "denoise", name: "Denoise", hint: "features to latents" },
  { key: "decode", name: "Decode", hint: "latents to pixels" },
  { key: "pack", name: "Pack", hint: "pixels to H.264 or JPEG" },
  { key: "screen", name: "Screen", hint: "buffered, decoded, in step with the sound" },
];
const HISTORY_S = 20;
const SMOOTH = 0.15;
const DRAW_MS = 250;

export class Trace {
  constructor({ bar, legend, total, history }) {
    Object.assign(this, { bar, total, history });
    this.parts = STAGES.map((stage) => this.#part(stage, legend));
    this.reset();
    new ResizeObserver(() => this.#drawHistory()).observe(history);
    matchMedia("(prefers-color-scheme: dark)").onchange = () => this.#drawHistory();
    setInterval(() => this.#draw(), DRAW_MS);
  }

  reset() {
    this.mean = null;
    this.points = [];
    this.budget = 0;
    this.isStale = true;
  }

  /** Takes what was shown just now; frames of silence have no delay. */
  shown(frame) {
    if (Number.isNaN(frame.ageMs)) return;
    const known = (ms) => (Number.isNaN(ms) ? 0 : ms);
    const stages = {
      encode: known(frame.encodeMs),
      denoise: known(frame.denoiseMs),
      decode: known(frame.decodeMs),
      pack: frame.packMs,
      screen: performance.now() - frame.arrivedAt,
    };
    const before = stages.encode + stages.denoise + stages.decode + stages.pack;
    stages.listen = Math.max(0, frame.ageMs - before);
    const total = frame.ageMs + stages.screen;
    this.hasStages = !Number.isNaN(frame.denoiseMs);
    this.mean ??= { ...stages, total };
    for (const [key, ms] of Object.entries({ ...stages, total })) {
      this.mean[key] += SMOOTH * (ms - this.mean[key]);
    }
    this.points.push({ at: performance.now(), total });
    this.isStale = true;
  }

  #part(stage, legend) {
    const piece = document.createElement("span");
    piece.className = `piece ${stage.key}`;
    this.bar.append(piece);
    const group = document.createElement("div");
    group.title = stage.hint;
    group.className = stage.key;
    const name = document.createElement("dt");
    name.textContent = stage.name;
    const value = document.createElement("dd");
    value.textContent = "–";
    group.append(name, value);
    legend.append(group);
    return { ...stage, piece, value, group };
  }

  #draw() {
    const horizon = performance.now() - 1000 * HISTORY_S;
    if (this.points.length && this.points[0].at < horizon) {
      this.points = this.points.filter((point) => point.at >= horizon);
      this.isStale = true;
    }
    if (!this.isStale && !this.points.length) return;
    this.total.textContent = this.mean ? `${Math.round(this.mean.total)} ms` : "–";
    for (const { key, piece, value, group } of this.parts) {
      const isUnknown = !this.hasStages && ["encode", "denoise", "decode"].includes(key);
      const ms = this.mean?.[key] ?? 0;
      piece.style.flexGrow = String(Math.max(ms, 0));
      group.hidden = Boolean(this.mean) && isUnknown;
      value.textContent = this.mean ? `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms` : "–";
    }
    this.#drawHistory();
    this.isStale = false;
  }

  #drawHistory() {
    const { history } = this;
    const scale = devicePixelRatio || 1;
    const [width, height] = [history.clientWidth, history.clientHeight];
    if (!width) return;
    history.width = width * scale;
    history.height = height * scale;
    const paper = history.getContext("2d");
    paper.scale(scale, scale);
    const style = getComputedStyle(history);
    const most = Math.max(1000, ...this.points.map((point) => point.total)) * 1.1;
    const y = (ms) => height - 1 - (ms / most) * (height - 12);
    paper.font = `11px ${style.fontFamily}`;
    this.#rule(paper, style, y(0), width);
    this.#rule(paper, style, y(1000), width, "1 s");
    if (this.budget) this.#rule(paper, style, y(this.budget), width, "algorithm", [3, 3]);
    const now = performance.now();
    paper.strokeStyle = style.getPropertyValue("--accent");
    paper.lineWidth = 2;
    paper.lineJoin = "round";
    paper.beginPath();
    let before = -Infinity;
    for (const { at, total } of this.points) {
      const x = width * (1 - (now - at) / (1000 * HISTORY_S));
      if (at - before > 400) paper.moveTo(x, y(total));
      else paper.lineTo(x, y(total));
      before = at;
    }
    paper.stroke();
  }

  #rule(paper, style, y, width, label = "", dash = []) {
    paper.strokeStyle = style.getPropertyValue("--line");
    paper.fillStyle = style.getPropertyValue("--soft");
    paper.lineWidth = 1;
    paper.setLineDash(dash);
    paper.beginPath();
    paper.moveTo(0, y);
    paper.lineTo(width, y);
    paper.stroke();
    paper.setLineDash([]);
    if (!label) return;
    paper.textAlign = dash.length ? "right" : "left";
    paper.fillText(label, dash.length ? width : 0, dash.length ? y + 12 : y - 4);
  }
}
