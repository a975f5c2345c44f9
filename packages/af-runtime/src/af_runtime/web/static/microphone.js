// The microphone as int16 pieces of 40 ms at the device's own rate; the gateway resamples.

export class Microphone {
  constructor(onPiece) {
    this.onPiece = onPiece;
    this.context = null;
  }

  get isOn() {
    return this.context !== null;
  }

  /** Throws an Error whose message is for the visitor. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("Browsers lend the microphone only to pages on this machine or over https.");
    }
    this.stream = await this.#asked();
    this.context = new AudioContext({ latencyHint: "interactive" });
    await this.context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
    const capture = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    capture.port.onmessage = ({ data }) => this.onPiece(data);
    this.context.createMediaStreamSource(this.stream).connect(capture);
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.stream = this.context = null;
  }

  async #asked() {
    try {
      return await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true },
      });
    } catch (error) {
      if (error.name === "NotAllowedError") {
        throw new Error("The browser did not lend the microphone. Allow it in the address bar.");
      }
      if (error.name === "NotFoundError") throw new Error("There is no microphone here.");
      throw new Error(`The microphone could not be opened: ${error.message}`);
    }
  }
}
