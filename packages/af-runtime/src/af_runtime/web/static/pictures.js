// Coded pictures to images: H.264 by WebCodecs where there is such a decoder, JPEG everywhere.

const KEY_FRAME = 1;
const JPEG = 3;
const H264 = { codec: "avc1.42C028", optimizeForLatency: true };

/** Returns which codec to ask the gateway for: "h264" or "jpeg". */
export async function bestCodec() {
  if (new URLSearchParams(location.search).get("codec") === "jpeg") return "jpeg";
  if (typeof VideoDecoder === "undefined") return "jpeg"; // also where the page is no secure context
  try {
    const { supported } = await VideoDecoder.isConfigSupported(H264);
    return supported ? "h264" : "jpeg";
  } catch {
    return "jpeg";
  }
}

/** Decodes the pictures of one session. `onImage(sent, image)`: image is to be closed. */
export class Pictures {
  constructor(onImage, onError) {
    this.onImage = onImage;
    this.onError = onError;
    this.decoder = null;
  }

  decode(frame) {
    if (frame.kind === JPEG) this.#jpeg(frame);
    else this.#h264(frame);
  }

  close() {
    if (this.decoder && this.decoder.state !== "closed") this.decoder.close();
    this.decoder = null;
    this.onImage = (sent, image) => image.close();
  }

  async #jpeg(frame) {
    try {
      const image = await createImageBitmap(new Blob([frame.picture], { type: "image/jpeg" }));
      this.onImage(frame.sent, image);
    } catch (error) {
      this.onError(error);
    }
  }

  #h264(frame) {
    if (!this.decoder) {
      if (frame.kind !== KEY_FRAME) return;
      this.decoder = new VideoDecoder({
        output: (image) => this.onImage(image.timestamp, image),
        error: (error) => this.onError(error),
      });
      this.decoder.configure(H264);
    }
    if (this.decoder.state === "closed") return;
    const type = frame.kind === KEY_FRAME ? "key" : "delta";
    this.decoder.decode(
      new EncodedVideoChunk({ type, timestamp: frame.sent, data: frame.picture }),
    );
  }
}
