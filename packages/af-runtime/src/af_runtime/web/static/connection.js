// The line to the gateway: commands go out as JSON, reports and frames come in.

const HEADER_BYTES = 32;
const SOUND_SAMPLES = 640;
const RETRY_MS = 1500;

/** Splits the message of one frame; af_runtime/web/frames.py says what is where. */
export function parseFrame(buffer) {
  const view = new DataView(buffer);
  const hasSound = view.getUint8(1) === 1;
  const pictureAt = HEADER_BYTES + (hasSound ? 2 * SOUND_SAMPLES : 0);
  const float = (at) => view.getFloat32(at, true);
  return {
    kind: view.getUint8(0),
    epoch: view.getUint16(2, true),
    number: view.getUint32(4, true),
    ageMs: float(8),
    encodeMs: float(12),
    denoiseMs: float(16),
    decodeMs: float(20),
    packMs: float(24),
    sent: view.getUint32(28, true),
    sound: hasSound ? new Int16Array(buffer, HEADER_BYTES, SOUND_SAMPLES) : null,
    picture: new Uint8Array(buffer, pictureAt),
    arrivedAt: performance.now(),
  };
}

/** Keeps a WebSocket open, and opens it again when it was lost. */
export class Connection {
  constructor({ onState, onReport, onFrame }) {
    this.onState = onState;
    this.onReport = onReport;
    this.onFrame = onFrame;
    this.#open();
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  send(type, fields = {}) {
    if (this.isOpen) this.socket.send(JSON.stringify({ type, ...fields }));
    return this.isOpen;
  }

  sendSound(samples) {
    if (this.isOpen) this.socket.send(samples);
  }

  #open() {
    const address = new URL("ws", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.search = "";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.onState("open");
    this.socket.onclose = () => {
      this.onState("lost");
      setTimeout(() => this.#open(), RETRY_MS);
    };
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.onReport(JSON.parse(data));
      else this.onFrame(parseFrame(data));
    };
  }
}
