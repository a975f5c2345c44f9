// The portraits to choose from: shipped ones and those that were brought, as radio buttons.

export class Gallery {
  constructor(place, { onChoice, onUpload }) {
    this.place = place;
    this.onChoice = onChoice;
    this.upload = this.#uploadTile(onUpload);
    place.append(this.upload);
  }

  async load(preferred) {
    const { portraits } = await (await fetch("api/gallery")).json();
    for (const name of portraits) {
      this.add({ id: name, name, source: `portraits/${encodeURIComponent(name)}` });
    }
    const first = portraits.includes(preferred) ? preferred : portraits[0];
    if (first) this.choose(first);
  }

  add({ id, name, source }) {
    const label = document.createElement("label");
    label.className = "portrait";
    label.title = name;
    const choice = document.createElement("input");
    Object.assign(choice, { type: "radio", name: "portrait", value: id });
    choice.setAttribute("aria-label", name);
    choice.dataset.source = source;
    choice.addEventListener("change", () => this.onChoice(this.chosen));
    const picture = document.createElement("img");
    Object.assign(picture, { src: source, alt: "", width: 128, height: 128 });
    picture.decoding = "async";
    label.append(choice, picture);
    this.upload.before(label);
  }

  choose(id) {
    const choice = this.place.querySelector(`input[value="${CSS.escape(id)}"]`);
    choice.checked = true;
    const tile = choice.parentElement;
    this.place.scrollLeft = tile.offsetLeft - (this.place.clientWidth - tile.offsetWidth) / 2;
    this.onChoice(this.chosen);
  }

  get chosen() {
    const choice = this.place.querySelector("input:checked");
    if (!choice) return null;
    const name = choice.getAttribute("aria-label");
    return { id: choice.value, name, source: choice.dataset.source };
  }

  #uploadTile(onUpload) {
    const tile = document.createElement("button");
    tile.type = "button";
    tile.className = "portrait upload";
    tile.title = "Your own picture";
    tile.setAttribute("aria-label", "Use a picture of your own");
    tile.textContent = "+";
    tile.addEventListener("click", onUpload);
    return tile;
  }
}
