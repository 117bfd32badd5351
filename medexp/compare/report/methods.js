// A method keeps its colour (Okabe and Ito's), its symbol and its dashes through the page; the three together tell 42 apart.
const data = JSON.parse(byId("data").textContent);
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const placeOf = new Map(data.methods.map((name, place) => [name, place]));
const colourOf = name => COLOURS[placeOf.get(name) % COLOURS.length];
const symbolOf = name => SYMBOLS[(placeOf.get(name) + Math.floor(placeOf.get(name) / COLOURS.length)) % SYMBOLS.length];
const dashOf = name => DASHES[placeOf.get(name) % DASHES.length];

const ANSWERS = {
  better: { colour: "#0072B2", symbol: "triangle-right" },
  worse: { colour: "#D55E00", symbol: "triangle-left" },
  "not separable": { colour: "#666666", symbol: "circle-open" },
};

// Plotly reads tags and entities in texts; ids and names have none.
const plain = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const told = value => value === null ? "-" : Number(value.toPrecision(4)).toString();
