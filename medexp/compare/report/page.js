// The filters, and everything that follows them.
const state = { metric: data.metrics[0].name, label: data.metrics[0].labels[0], first: "", second: "", curve: "", factor: "", logarithmic: false };
const metricNow = () => data.metrics.find(metric => metric.name === state.metric);
const viewNow = () => data.views[state.metric][state.label];
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
// Of more methods the matrix shows signs alone.
const MOST_WORDS = 6;
const PAPER = 680;
const PLOTS = {
  "score-plot": [scorePlot, "values of the methods with 95 % intervals"],
  "difference-plot": [differencePlot, "differences of pairs with 95 % intervals"],
  "case-plot": [casePlot, "values of each case by the two chosen methods, joined by lines"],
  "rain-plot": [rainPlot, "distribution of the cases by method: density, box and dots"],
  "spread-plot": [spreadPlot, "value of each training, and standard deviations between trainings and between cases"],
  "rank-plot": [rankPlot, "share of resamples in which each method has each rank"],
  "strata-plot": [strataPlot, "values of the methods in parts of the cases"],
  "curve-plot": [curvePlot, "learning curve of each run"],
};

function options(id, values, chosen) {
  byId(id).replaceChildren(...values.map(value => {
    const option = make("option", value, { value });
    option.selected = value === chosen;
    return option;
  }));
}

function draw(id) {
  const [plot, words] = PLOTS[id], found = plot(viewNow(), metricNow(), state), place = byId(id);
  place.closest("figure").hidden = !found;
  if (!found) return;
  place.setAttribute("aria-label", `${words}; ${state.metric}, ${state.label}`);
  Plotly.react(place, ...found, CONFIG);
}

function pairTold(view) {
  const chosen = [state.first, state.second];
  if (state.first === state.second) return "Choose two methods.";
  const place = view.pairs.findIndex(one => chosen.includes(one.first) && chosen.includes(one.second));
  if (place < 0) return data.baseline === null ? "" : `Not compared: all methods are compared with ${data.baseline}.`;
  const [pair, answer, difference, interval, p] = view.tables.pairs.rows[place];
  if (view.pairs[place].reason) return `${pair}: ${answer}, difference ${difference}; ${view.pairs[place].reason}.`;
  return `${pair}: ${answer}, difference ${difference} (95 % ${interval}), p ${p} after Holm.`;
}

function showPair() {
  byId("pair-told").textContent = pairTold(viewNow());
  draw("case-plot");
  draw("difference-plot");
}

function showStrata() {
  const view = viewNow(), factors = Object.keys(view.strata);
  byId("strata").hidden = !factors.length;
  if (!factors.length) return;
  if (!factors.includes(state.factor)) state.factor = factors[0];
  options("factor", factors, state.factor);
  fill(byId("strata-table"), view.strata_tables[state.factor]);
  draw("strata-plot");
}

function picture(one) {
  const figure = make("figure"), words = `${one.case} by ${one.method}, fold ${one.fold}, seed ${one.seed}`;
  const value = one.values[state.metric]?.[state.label] ?? null;
  figure.append(make("img", "", { src: one.uri, alt: `reference and prediction of ${words}` }));
  figure.append(make("figcaption", `${words}: ${state.metric}, ${state.label} ${told(value)}`));
  return figure;
}

function showWorst() {
  const sheets = viewNow().worst;
  byId("worst-none").hidden = sheets.length > 0;
  byId("worst-tables").hidden = !sheets.length;
  sheets.forEach((sheet, place) => fill(byId(`worst-table-${place}`), sheet));
  const cases = [...new Set(sheets.flatMap(sheet => sheet.rows.map(row => row[0])))];
  const drawn = cases.flatMap(id => data.pictures.filter(one => one.case === id));
  byId("worst-pictures").replaceChildren(...drawn.map(picture));
  byId("worst-undrawn").hidden = !sheets.length || drawn.length > 0;
}

function show() {
  const metric = metricNow(), view = viewNow();
  options("label", metric.labels, state.label);
  for (const place of document.querySelectorAll(".now")) place.textContent = `${state.metric}, ${state.label}`;
  byId("estimand").textContent = `${metric.estimand[0].toUpperCase()}${metric.estimand.slice(1)}.`;
  byId("told").replaceChildren(...view.told.map(sentence => make("li", `${sentence}.`)));
  for (const [name, sheet] of Object.entries(view.tables)) fill(byId(`${name}-table`), sheet);
  byId("matrix-table").classList.toggle("dense", data.methods.length > MOST_WORDS);
  fill(byId("labels-table"), metric.by_label);
  byId("labels-frame").hidden = metric.labels.length < 2;
  byId("diagram").innerHTML = view.diagram;
  byId("diagram").closest("figure").hidden = !view.diagram;
  byId("unit-word").textContent = metric.by_case ? "case" : "group (its pseudo-value, since the metric has no value per case)";
  for (const id of Object.keys(PLOTS)) if (id !== "strata-plot") draw(id);
  byId("pair-told").textContent = pairTold(view);
  showStrata();
  showWorst();
}

// Paper is narrower than the screen.
function resize(width) {
  const drawn = Object.keys(PLOTS).map(byId).filter(place => place.data);
  for (const place of drawn) Plotly.relayout(place, width ? { width, autosize: false } : { width: null, autosize: true });
}

function start() {
  const pair = viewNow().pairs[0] || { first: data.methods[0], second: data.methods[1] };
  Object.assign(state, { first: pair.first, second: pair.second, curve: Object.keys(data.curves)[0] || "" });
  options("metric", data.metrics.map(metric => metric.name), state.metric);
  for (const id of ["first", "second"]) options(id, data.methods, state[id]);
  options("curve", Object.keys(data.curves), state.curve);
  byId("metric").onchange = event => {
    state.metric = event.target.value;
    if (!metricNow().labels.includes(state.label)) state.label = metricNow().labels[0];
    show();
  };
  byId("label").onchange = event => { state.label = event.target.value; show(); };
  for (const id of ["first", "second"]) byId(id).onchange = event => { state[id] = event.target.value; showPair(); };
  byId("curve").onchange = event => { state.curve = event.target.value; draw("curve-plot"); };
  byId("logarithmic").onchange = event => { state.logarithmic = event.target.checked; draw("curve-plot"); };
  byId("factor").onchange = event => { state.factor = event.target.value; showStrata(); };
  addEventListener("beforeprint", () => resize(PAPER));
  addEventListener("afterprint", () => resize(0));
  byId("curves").hidden = !state.curve;
  for (const table of document.querySelectorAll("table.ready")) equip(table);
  show();
  document.documentElement.dataset.ready = "yes";
}
start();
