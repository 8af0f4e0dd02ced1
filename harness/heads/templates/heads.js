"use strict";
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const { n, measures } = data;
const nLayer = data.profile.length, nHead = data.profile[0].length;
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const levels = bytes(data.levels);
const ranges = new DataView(bytes(data.ranges).buffer);

// What is chosen (it stays) and what is pointed at (it goes).
const state = { layer: 0, head: 0, query: n - 1, key: 0, view: "attention", direction: "from", measure: 0, pointed: null };
let scores, attention;  // of the chosen head, [n * n]

function decodeHead() {
  const index = state.layer * nHead + state.head;
  scores = new Float32Array(n * n);
  attention = new Float32Array(n * n);
  for (let i = 0; i < n; i++) {
    const at = (index * n + i) * 8;
    const low = ranges.getFloat32(at, true), high = ranges.getFloat32(at + 4, true);
    let most = -Infinity, sum = 0;
    for (let j = 0; j < n; j++) {
      const s = scores[i * n + j] = low + levels[(index * n + i) * n + j] * (high - low) / 255;
      if (j <= i) most = Math.max(most, s);
    }
    for (let j = 0; j <= i; j++) sum += attention[i * n + j] = Math.exp(scores[i * n + j] - most);
    for (let j = 0; j <= i; j++) attention[i * n + j] /= sum;
  }
}

// Colours: from paper to --much, or to --above and --below on either side of a centre, as in the figures.

let palette;
function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => {
    let hex = style.getPropertyValue(name).trim().slice(1);
    if (hex.length === 3) hex = [...hex].map((c) => c + c).join("");
    return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  };
  palette = Object.fromEntries(["paper", "ink", "much", "above", "below"].map((name) => [name, rgb("--" + name)]));
}
const mixed = (end, share) => palette.paper.map((c, k) => Math.round(c + Math.min(1, share) * (end[k] - c)));
const much = (share) => mixed(palette.much, share);
const diverging = (x) => mixed(x < 0 ? palette.below : palette.above, Math.abs(x));
const css = (rgb) => "rgb(" + rgb.join(" ") + ")";

const signed = (x, digits) => (x === null || x === undefined ? "–" : x.toFixed(digits).replace("-", "−"));
const hex = (c) => (c < "\x80" ? "\\x" : "\\u") + c.codePointAt(0).toString(16).padStart(c < "\x80" ? 2 : 4, "0");
const obeyed = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu; // by whatever shows text, as an order and not as a character
const visible = (token) => token.replace(obeyed, hex).replace(/\n/g, "⏎").replace(/\t/g, "⇥");
const quoted = (index) => visible(data.tokens[index]).replace(/ /g, "␣");
function element(tag, text, parent, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  parent.append(made);
  return made;
}

// Heads

const headButtons = [];
function buildHeads() {
  const grid = $("heads");
  grid.style.setProperty("--heads", nHead);
  const header = element("div", "", grid);
  header.setAttribute("role", "row");
  header.style.display = "contents";
  element("span", "", header);
  for (let head = 0; head < nHead; head++) element("span", nHead <= 16 || head % 4 === 0 ? head : "", header);
  for (let layer = 0; layer < nLayer; layer++) {
    const row = element("div", "", grid);
    row.setAttribute("role", "row");
    row.style.display = "contents";
    element("span", layer, row);
    headButtons.push(Array.from({ length: nHead }, (_, head) => {
      const button = element("button", "", row);
      button.setAttribute("role", "gridcell");
      button.addEventListener("click", () => chooseHead(layer, head));
      return button;
    }));
  }
  grid.addEventListener("keydown", (event) => {
    const [down, right] = arrows(event);
    if (!down && !right) return;
    event.preventDefault();
    chooseHead(clamp(state.layer + down, nLayer), clamp(state.head + right, nHead));
    headButtons[state.layer][state.head].focus();
  });
  measures.forEach((measure, index) => { element("option", measure.title, $("measure")).value = index; });
  $("measure").addEventListener("change", (event) => { state.measure = Number(event.target.value); colourHeads(); });
}
function colourHeads() {
  const measure = measures[state.measure];
  const known = measure.values.flat().filter((x) => x !== null);
  const least = Math.min(...known), most = Math.max(...known);
  const reach = Math.max(...known.map((x) => Math.abs(x - measure.centre))) || 1;
  headButtons.forEach((row, layer) => row.forEach((button, head) => {
    const value = measure.values[layer][head];
    const colour = measure.centre === null
      ? much((value - least) / (most - least || 1)) : diverging((value - measure.centre) / reach);
    button.style.background = value === null ? "transparent" : css(colour);
    const chosen = layer === state.layer && head === state.head;
    button.setAttribute("aria-selected", chosen);
    button.tabIndex = chosen ? 0 : -1;
    button.title = `layer ${layer}, head ${head}: ${measure.title} ${signed(value, 3)}`;
    button.setAttribute("aria-label", button.title);
  }));
  $("meaning").textContent = measure.meaning +
    (known.length ? ` From ${signed(least, 3)} to ${signed(most, 3)} here.` : " Not defined on this text.");
}
function chooseHead(layer, head) {
  Object.assign(state, { layer, head });
  decodeHead();
  colourHeads();
  $("chosen").textContent = `Layer ${layer}, head ${head}`;
  $("numbers").replaceChildren();
  for (const measure of measures) {
    element("dt", measure.title, $("numbers")).title = measure.meaning;
    element("dd", signed(measure.values[layer][head], 3), $("numbers"));
  }
  const profile = data.profile[layer][head], most = Math.max(...profile);
  $("profile").replaceChildren();
  profile.forEach((share, bin) => {
    element("span", data.bins[bin], $("profile"));
    element("div", "", $("profile"), "bar").style.width = `${100 * share / most}%`;
    element("span", `${(100 * share).toFixed(1)} %`, $("profile"));
  });
  drawMatrix();
  showPair();
}

// Matrix

const image = document.createElement("canvas");
image.width = image.height = n;
function drawMatrix() {
  const pixels = new ImageData(n, n);
  const mean = scores.reduce((a, b) => a + b, 0) / scores.length;
  const reach = scores.reduce((most, s) => Math.max(most, Math.abs(s - mean)), 0) || 1;
  for (let at = 0; at < n * n; at++) {
    const rgb = state.view === "scores" ? diverging((scores[at] - mean) / reach) : much(Math.sqrt(attention[at]));
    pixels.data.set([...rgb, 255], 4 * at);
  }
  image.getContext("2d").putImageData(pixels, 0, 0);
  $("legend").textContent = state.view === "scores"
    ? `Scores S[i, j] of query i (row) and key j (column) before the softmax, less their mean ${signed(mean, 2)}; full colour is ` +
      `${signed(reach, 2)} away from it, red above and blue below. Above the diagonal is what the causal mask hides from the ` +
      "model: a reciprocal head is symmetric."
    : "Attention of query i (row) to key j (column); the colour goes with the square root, so that little is seen too.";
  if (data.bias) drawBias();
}
function drawBias() {
  const bias = data.bias[state.layer][state.head], canvas = $("bias");
  const reach = Math.max(...data.bias.flat(2).map(Math.abs)) || 1;
  canvas.hidden = false;
  canvas.width = n;
  const pixels = new ImageData(n, 1);
  bias.forEach((d, j) => pixels.data.set([...diverging(d / reach), 255], 4 * j));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
function pairAt(event) {
  const box = $("matrix").getBoundingClientRect();
  return [event.clientY - box.top, event.clientX - box.left].map((at) => clamp(Math.floor(at / box.width * n), n));
}
function buildMatrix() {
  const canvas = $("matrix");
  canvas.width = canvas.height = n * Math.max(1, Math.round(1152 / n));
  canvas.addEventListener("pointermove", (event) => point(...pairAt(event)));
  canvas.addEventListener("pointerleave", unpoint);
  canvas.addEventListener("click", (event) => choosePair(...pairAt(event)));
  canvas.addEventListener("keydown", (event) => {
    const [down, right] = arrows(event);
    if (!down && !right) return;
    event.preventDefault();
    choosePair(clamp(state.query + down, n), clamp(state.key + right, n));
  });
}

// Text

const tokenSpans = [];
function buildText() {
  data.tokens.forEach((token, index) => {
    const span = element("span", visible(token) + (token.includes("\n") ? "\n" : ""), $("text"));
    span.addEventListener("pointerenter", () => pointAt(index));
    span.addEventListener("pointerleave", unpoint);
    span.addEventListener("click", () => chooseToken(index));
    tokenSpans.push(span);
  });
  $("text").addEventListener("keydown", (event) => {
    const by = { Home: -n, End: n }[event.key] || arrows(event)[1];
    if (!by) return;
    event.preventDefault();
    chooseToken(clamp(token() + by, n));
  });
}
const token = () => (state.direction === "from" ? state.query : state.key);
const withToken = (index) => (state.direction === "from"
  ? [index, strongest(index, "from")[0]] : [strongest(index, "to")[0], index]);
const pointAt = (index) => point(...withToken(index));
const chooseToken = (index) => choosePair(...withToken(index));

// The tokens that `index` attends to ("from"), or that attend to it ("to"), strongest first.
function strongest(index, direction) {
  const others = direction === "from" ? [...Array(index + 1).keys()] : [...Array(n - index).keys()].map((k) => index + k);
  const weight = (other) => (direction === "from" ? attention[index * n + other] : attention[other * n + index]);
  return others.sort((a, b) => weight(b) - weight(a));
}

// What is chosen or pointed at: a pair of query and key

function point(query, key) { state.pointed = [query, key]; showPair(); }
function unpoint() { state.pointed = null; showPair(); }
function choosePair(query, key) { Object.assign(state, { query, key, pointed: null }); showPair(); }

function showPair() {
  const [query, key] = state.pointed || [state.query, state.key];
  const canvas = $("matrix"), context = canvas.getContext("2d"), cell = canvas.width / n;
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.strokeStyle = css(palette.ink);
  context.lineWidth = Math.max(2, cell / 6);
  context.globalAlpha = 0.45;
  context.strokeRect(0, query * cell, canvas.width, cell);
  context.strokeRect(key * cell, 0, cell, canvas.height);
  context.globalAlpha = 1;
  context.strokeRect(key * cell, query * cell, cell, cell);

  const readout = $("readout");
  readout.replaceChildren();
  const say = (text) => readout.append(text);
  say(`i = ${query} `);
  element("code", quoted(query), readout);
  say(` → j = ${key} `);
  element("code", quoted(key), readout);
  say(key <= query ? `: attention ${attention[query * n + key].toFixed(4)}, ` : ": masked, ");
  say(`S[i, j] ${signed(scores[query * n + key], 2)}, S[j, i] ${signed(scores[key * n + query], 2)}`);
  if (data.bias) say(`, bias of j ${signed(data.bias[state.layer][state.head][key], 3)}`);

  const from = state.direction === "from", centre = from ? query : key;
  const others = strongest(centre, state.direction);
  const most = from ? attention[query * n + others[0]] : attention[others[0] * n + key];
  tokenSpans.forEach((span, other) => {
    const weight = from ? attention[query * n + other] : attention[other * n + key];
    span.style.background = weight > 0 ? css(much(0.7 * weight / most)) : "";
    span.className = other === centre ? "query" : other === (from ? key : query) ? "key" : "";
  });
  $("partner").textContent = from ? `${query} attends to` : `${key} is attended by`;
  $("strongest").replaceChildren();
  for (const other of others.slice(0, 6)) {
    const [i, j] = from ? [query, other] : [other, key];
    const row = element("tr", "", $("strongest"));
    element("td", other, row);
    element("code", quoted(other), element("td", "", row));
    element("td", attention[i * n + j].toFixed(4), row, "number");
    element("td", signed(scores[i * n + j], 2), row, "number");
    element("td", signed(scores[j * n + i], 2), row, "number");
  }
}

const clamp = (index, count) => Math.max(0, Math.min(count - 1, index));
const arrows = (event) => ({
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
}[event.key] || [0, 0]);

readPalette();
buildHeads();
buildMatrix();
buildText();
for (const name of ["view", "direction"]) {
  $(name).addEventListener("change", (event) => {
    state[name] = event.target.value;
    drawMatrix();
    showPair();
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readPalette(); chooseHead(state.layer, state.head); });
decodeHead();
state.key = strongest(state.query, "from")[0];
chooseHead(0, 0);
