// Gathers the microphone's samples into pieces of 40 ms, as int16.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.round(sampleRate / 25);
    this.piece = new Int16Array(this.size);
    this.count = 0;
  }

  process([input]) {
    for (const sample of input[0] ?? []) {
      this.piece[this.count] = Math.max(-1, Math.min(1, sample)) * 32767;
      this.count += 1;
      if (this.count === this.size) {
        this.port.postMessage(this.piece.buffer, [this.piece.buffer]);
        this.piece = new Int16Array(this.size);
        this.count = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
