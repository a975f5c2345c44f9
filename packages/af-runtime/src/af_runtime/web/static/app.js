// The page: its buttons, its words, and how connection, player, microphone and trace work together.

import { Connection } from "./connection.js";
import { Gallery } from "./gallery.js";
import { Microphone } from "./microphone.js";
import { bestCodec } from "./pictures.js";
import { Player } from "./player.js";
import { Trace } from "./trace.js";

const RESTART_MS = 300; // arrow keys walk through the gallery; a session begins where they rest
const TELL_FRAMES = 5; // how often the gateway hears how much was played
const LOUDEST = 0.15; // root mean square at which the glow is full

const byId = (id) => document.getElementById(id);
const ui = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

const session = { state: "none", waiting: null, ready: null, isSpeaking: false, late: 0 };

const connection = new Connection({ onState: connectionChanged, onReport: report, onFrame: frame });
const player = new Player(ui.screen, {
  onShown: shown,
  onPlayed: (frames) => frames % TELL_FRAMES === 0 && connection.send("played", { frames }),
  onLevel: (level) => ui.frame.style.setProperty("--level", Math.min(1, level / LOUDEST).toFixed(3)),
  onError: () => complain("A picture could not be decoded. Start again, or add ?codec=jpeg."),
});
const microphone = new Microphone((piece) => session.state === "running" && connection.sendSound(piece));
const trace = new Trace({ bar: ui.bar, legend: ui.legend, total: ui.total, history: ui.history });
const gallery = new Gallery(byId("gallery"), {
  onChoice: portraitChosen,
  onUpload: () => byId("portrait-file").click(),
});

// What others look at: the tests of the page, and whoever opens the console.
window.demo = { player, session, trace };

// --- what the gateway says ---------------------------------------------------------------------

function connectionChanged(state) {
  ui.connection.dataset.state = state;
  ui.connection.textContent = state === "open" ? "connected" : "no connection";
  if (state === "open") {
    if (session.isLost) byId("problem").hidden = true;
    session.isLost = false;
    return;
  }
  if (!session.isLost) complain("The demo does not answer. Is “af-runtime demo” still running?");
  session.isLost = true;
  ended();
}

function report(message) {
  switch (message.type) {
    case "queued":
      session.position = message.position;
      break;
    case "ready":
      began(message);
      break;
    case "started":
      session.isSpeaking = true;
      break;
    case "finished":
      session.isSpeaking = false;
      break;
    case "interrupted":
      player.epoch = message.epoch;
      session.isSpeaking = false;
      break;
    case "warning":
      session.late += 1;
      break;
    case "error":
      complain(message.message);
      session.waiting?.reject(new Error(message.message));
      session.waiting = null;
      if (message.fatal) ended();
      else if (session.state === "starting") ended();
      break;
    case "ended":
      ended();
      break;
  }
  describe();
}

function frame(one) {
  if (session.ready) player.take(one);
}

function shown(one) {
  if (session.state === "starting") {
    session.state = "running";
    session.waiting?.resolve();
    session.waiting = null;
    if (microphone.isOn) listen();
    describe();
  }
  ui.screen.hidden = false;
  ui.still.hidden = true;
  trace.shown(one);
  if (player.counts.shown % 5 === 0) {
    const { shown: count, stalls } = player.counts;
    const held = stalls + session.late;
    ui.counts.textContent = `${count.toLocaleString()} frames${held ? `, ${held} held up` : ""}`;
  }
}

// --- sessions ----------------------------------------------------------------------------------

async function start() {
  session.waiting?.reject(new Error(""));
  Object.assign(session, { state: "starting", position: 0, ready: null, isSpeaking: false });
  session.isShown = new Promise((resolve, reject) => (session.waiting = { resolve, reject }));
  session.isShown.catch(() => {}); // who waits for it hears of it
  describe();
  await player.begin();
  player.isAudible = ui.sound.checked;
  const chosen = gallery.chosen;
  const codec = await bestCodec();
  const seed = Math.min(Math.max(Math.trunc(Number(ui.seed.value)) || 0, 0), 2 ** 32 - 1);
  ui.seed.value = seed;
  const wasSent = chosen && connection.send("start", { portrait: chosen.id, seed, codec });
  if (!wasSent) {
    ended();
    throw new Error("The demo does not answer. Is “af-runtime demo” still running?");
  }
  // Speech that comes before the first picture would wait behind it, and go on doing so.
  await session.isShown;
}

function began(ready) {
  player.reset();
  trace.reset();
  trace.budget = ready.block_ms + ready.lookahead_ms;
  session.ready = ready;
  session.position = session.late = 0;
  const name = ready.codec === "h264" ? "H.264" : "JPEG";
  ui.codec.textContent = `${ready.width} × ${ready.height}, ${name}, preset ${ready.preset}`;
}

function ended() {
  session.waiting?.reject(new Error(""));
  Object.assign(session, { state: "none", waiting: null, ready: null, isSpeaking: false });
  microphone.stop();
  player.reset();
  ui.screen.hidden = true;
  ui.still.hidden = false;
  ui.frame.style.setProperty("--level", 0);
  describe();
}

/** Runs what a button asks for, in a session; failures become words. */
async function doing(action) {
  try {
    byId("problem").hidden = true;
    if (session.state === "none") await start();
    else await session.isShown;
    await action();
  } catch (error) {
    complain(error.message);
  }
  describe();
}

// --- speech ------------------------------------------------------------------------------------

ui.microphone.addEventListener("click", async () => {
  if (microphone.isOn) {
    microphone.stop();
    connection.send("microphone", { on: false });
    describe();
    return;
  }
  await doing(async () => {
    await microphone.start();
    listen();
  });
});

byId("hello").addEventListener("click", () => doing(() => say("hello")));
byId("choose-sound").addEventListener("click", () => byId("sound-file").click());
byId("sound-file").addEventListener("change", ({ target }) => {
  if (target.files.length) speak(target.files[0]);
  target.value = "";
});
byId("interrupt").addEventListener("click", interrupt);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") interrupt();
});

function listen() {
  const { sampleRate } = microphone.context;
  connection.send("microphone", { on: true, sample_rate: Math.round(sampleRate) });
}

function say(speech) {
  microphone.stop();
  connection.send("say", { speech });
}

function speak(file) {
  return doing(async () => {
    const answer = await bring(`api/speech?name=${encodeURIComponent(file.name)}`, file);
    say(answer.id);
  });
}

function interrupt() {
  if (session.state !== "running") return;
  player.interrupt();
  session.isSpeaking = false;
  connection.send("interrupt");
  describe();
}

// --- portraits ---------------------------------------------------------------------------------

let restart = 0;

function portraitChosen({ name, source }) {
  ui.still.src = source;
  ui.still.alt = `Portrait: ${name}`;
  ui.screen.setAttribute("aria-label", `${name}, the avatar`);
  byId("portrait-note").hidden = true;
  restartSoon();
}

function restartSoon() {
  if (session.state === "none") return;
  clearTimeout(restart);
  restart = setTimeout(() => start().catch((error) => complain(error.message)), RESTART_MS);
}

async function bringPortrait(file) {
  try {
    const { id, note } = await bring("api/portraits", file);
    gallery.add({ id, name: file.name, source: URL.createObjectURL(file) });
    gallery.choose(id);
    const place = byId("portrait-note");
    place.textContent = note;
    place.hidden = !note;
  } catch (error) {
    complain(error.message);
  }
}

byId("portrait-file").addEventListener("change", ({ target }) => {
  if (target.files.length) bringPortrait(target.files[0]);
  target.value = "";
});

ui.seed.addEventListener("change", restartSoon);
ui.dice.addEventListener("click", () => {
  ui.seed.value = crypto.getRandomValues(new Uint16Array(1))[0];
  restartSoon();
});
ui.sound.addEventListener("change", () => (player.isAudible = ui.sound.checked));

async function bring(address, file) {
  let answer;
  try {
    answer = await fetch(address, { method: "POST", body: file });
  } catch {
    throw new Error("The demo does not answer. Is “af-runtime demo” still running?");
  }
  const text = await answer.text();
  const value = answer.headers.get("Content-Type")?.includes("json") ? JSON.parse(text) : null;
  if (!answer.ok) throw new Error(value?.error ?? text);
  return value;
}

// --- dropping files ----------------------------------------------------------------------------

let depth = 0;

document.addEventListener("dragenter", () => {
  depth += 1;
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", () => {
  depth -= 1;
  if (depth <= 0) document.body.classList.remove("dropping");
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (!file) return;
  if (file.type.startsWith("image/")) bringPortrait(file);
  else speak(file);
});

// --- words -------------------------------------------------------------------------------------

function describe() {
  ui.microphone.setAttribute("aria-pressed", String(microphone.isOn));
  ui.microphone.querySelector("span").textContent = microphone.isOn ? "Stop" : "Speak";
  ui.interrupt.disabled = session.state !== "running" || !session.isSpeaking;
  document.body.dataset.speaking = String(session.isSpeaking);
  document.body.dataset.listening = String(microphone.isOn);
  const words = inWords();
  if (ui.status.textContent !== words) ui.status.textContent = words;
}

function inWords() {
  if (session.state === "none") return "Choose a portrait, then speak.";
  if (session.state === "starting" && session.position)
    return `All places are taken: number ${session.position} in line …`;
  if (session.state === "starting") return "Waking up …";
  if (session.isSpeaking) return "Speaking.";
  return microphone.isOn ? "Listening: say something." : "Quiet. Speak, or let it say hello.";
}

function complain(text) {
  if (!text) return; // what is behind it has been told already
  byId("problem-text").textContent = text;
  byId("problem").hidden = false;
}

byId("dismiss").addEventListener("click", () => (byId("problem").hidden = true));

gallery.load("iris").catch(() => complain("The portraits could not be loaded. Reload the page."));
describe();
