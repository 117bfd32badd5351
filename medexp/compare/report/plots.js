// Plots: each function takes the view of a metric and label and gives [traces, layout], or nothing where there is nothing.
const GRID = "#e4e4e4";
const MOST_DOTS = 6000;
const MOST_PAIRS = 40;
// Steps of cividis, which readers of all colour visions see in one order.
const STEPS = ["#00204D", "#31446B", "#666970", "#958F78", "#CBBA69", "#FFEA46"];

const axis = (title, more = {}) => ({ title: { text: title }, automargin: true, gridcolor: GRID, zeroline: false, ...more });
const names = (list, more = {}) => axis("", {
  type: "category", categoryorder: "array", categoryarray: list.map(plain), range: [list.length - 0.4, -0.6], ...more,
});
const LEGEND = { showlegend: true, legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom" } };
const layoutOf = (rows, more) => ({
  height: 130 + 28 * rows, margin: { l: 20, r: 20, t: 40, b: 50 }, font: { size: 13 }, showlegend: false,
  hovermode: "closest", paper_bgcolor: "#fff", plot_bgcolor: "#fff", ...more,
});
const unitOf = metric => metric.unit && metric.unit !== "fraction" ? `${metric.name} [${metric.unit}]` : metric.name;
const around = (values, lows, highs) => ({
  type: "data", symmetric: false, thickness: 1.5, width: lows.includes(null) ? 0 : 4,
  array: values.map((v, i) => highs[i] === null ? null : highs[i] - v),
  arrayminus: values.map((v, i) => lows[i] === null ? null : v - lows[i]),
});

function scorePlot(view, metric) {
  const traces = view.scores.map(one => ({
    x: [one.value], y: [plain(one.method)], error_x: { ...around([one.value], [one.low], [one.high]), color: colourOf(one.method) },
    mode: "markers", marker: { size: 10, color: colourOf(one.method), symbol: symbolOf(one.method) },
    hovertemplate: `%{y}: ${told(one.value)} (95 % ${told(one.low)} to ${told(one.high)})<extra></extra>`,
  }));
  return [traces, layoutOf(traces.length, { xaxis: axis(unitOf(metric)), yaxis: names(data.methods) })];
}

// Pairs to draw; of very many those with the chosen method, which then comes first.
function pairsToDraw(view, first) {
  if (view.pairs.length <= MOST_PAIRS) return view.pairs;
  const turned = { better: "worse", worse: "better" };
  const minus = value => value === null ? null : -value;
  return view.pairs.filter(one => [one.first, one.second].includes(first)).map(one => one.first === first ? one : {
    first, second: one.first, p: one.p, answer: turned[one.answer] || one.answer,
    difference: minus(one.difference), low: minus(one.high), high: minus(one.low),
  });
}

function differencePlot(view, metric, state) {
  const pairs = pairsToDraw(view, state.first);
  if (!pairs.length) return null;
  const nameOf = one => plain(`${one.first} − ${one.second}`);
  const traces = Object.entries(ANSWERS).map(([answer, look]) => {
    const own = pairs.filter(one => one.answer === answer), values = own.map(one => one.difference);
    return {
      name: answer, x: values, y: own.map(nameOf), mode: "markers",
      error_x: { ...around(values, own.map(one => one.low), own.map(one => one.high)), color: look.colour },
      marker: { size: 11, color: look.colour, symbol: look.symbol },
      text: own.map(one => `${nameOf(one)}: ${answer}<br>${told(one.difference)} (95 % ${told(one.low)} to ${told(one.high)})`
        + `<br>p ${told(one.p)} after Holm`),
      hovertemplate: "%{text}<extra></extra>",
    };
  }).filter(trace => trace.x.length);
  const zero = { type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: "#000", width: 1, dash: "dot" } };
  return [traces, layoutOf(pairs.length + 1, {
    xaxis: axis(`difference of ${unitOf(metric)}, first minus second`), yaxis: names(pairs.map(one => `${one.first} − ${one.second}`)),
    shapes: [zero], ...LEGEND,
  })];
}

const unitsOf = (view, metric) => view.units.units.map(place => metric.units[place]);

function casePlot(view, metric, { first, second }) {
  const [a, b] = [first, second].map(name => view.units.values[placeOf.get(name)]);
  const ids = unitsOf(view, metric);
  const both = ids.map((_, i) => i).filter(i => a[i] !== null && b[i] !== null);
  if (!both.length) return null;
  const sign = metric.better === "lower" ? -1 : 1;
  const groups = [
    [`${first} is better`, i => sign * (a[i] - b[i]) > 0, ANSWERS.better.colour, "solid"],
    [`${second} is better`, i => sign * (a[i] - b[i]) < 0, ANSWERS.worse.colour, "dash"],
    ["equal", i => a[i] === b[i], "#666666", "dot"],
  ];
  const lines = groups.map(([name, holds, color, dash]) => {
    const own = both.filter(holds);
    return {
      name: plain(`${metric.better === "higher" || metric.better === "lower" ? name : name.replace("better", "larger")}: ${own.length}`),
      x: own.flatMap(() => [0, 1, null]), y: own.flatMap(i => [a[i], b[i], null]),
      mode: "lines", line: { color, dash, width: 1 }, opacity: 0.6, hoverinfo: "skip",
    };
  }).filter(trace => trace.x.length);
  const dots = [[0, first, a], [1, second, b]].map(([at, name, values]) => ({
    x: both.map(() => at), y: both.map(i => values[i]), mode: "markers", showlegend: false,
    marker: { color: colourOf(name), symbol: symbolOf(name), size: 7, line: { color: "#fff", width: 0.5 } },
    text: both.map(i => plain(`${ids[i]}: ${told(a[i])} and ${told(b[i])}`)), hovertemplate: "%{text}<extra></extra>",
  }));
  return [[...lines, ...dots], layoutOf(11, {
    xaxis: axis("", { tickvals: [0, 1], ticktext: [first, second].map(plain), range: [-0.3, 1.3] }), yaxis: axis(unitOf(metric)), ...LEGEND,
  })];
}

function rainPlot(view, metric) {
  const ids = unitsOf(view, metric).map(plain);
  const many = view.units.values.length * ids.length > MOST_DOTS;
  const traces = data.methods.map((name, place) => ({
    type: "violin", orientation: "h", side: "negative", name: plain(name), y0: plain(name), x: view.units.values[place], text: ids,
    points: many ? "outliers" : "all", pointpos: 0.35, jitter: 0.3, width: 1.3, spanmode: "hard", box: { visible: true, width: 0.25 },
    line: { color: colourOf(name), width: 1.5 }, marker: { size: 4, opacity: 0.6, symbol: symbolOf(name) },
    hovertemplate: "%{text}: %{x}<extra>%{y}</extra>", hoveron: "points",
  }));
  return [traces, layoutOf(2.2 * traces.length + 1, {
    xaxis: axis(unitOf(metric)), yaxis: names(data.methods, { range: [traces.length - 0.3, -1] }),
  })];
}

// Within a method's row each seed has a line of its own, so that a seed that fails in every fold is seen.
function spreadPlot(view, metric) {
  const seeds = [...new Set(view.scores.flatMap(one => one.by_run.map(run => run[1])))].sort((a, b) => a - b);
  const rowOf = (one, seed) => placeOf.get(one.method) + 0.6 * ((seeds.indexOf(seed) + 0.5) / seeds.length - 0.5);
  const trainings = view.scores.map(one => ({
    x: one.by_run.map(run => run[2]), y: one.by_run.map(run => rowOf(one, run[1])), mode: "markers", name: plain(one.method),
    marker: { color: colourOf(one.method), symbol: symbolOf(one.method), size: 8, opacity: 0.75 }, showlegend: false,
    text: one.by_run.map(([fold, seed]) => plain(`fold ${fold}, seed ${seed}`)),
    hovertemplate: "%{text}: %{x}<extra>%{fullData.name}</extra>",
  }));
  const spreads = [["between trainings of a fold", "training_sd", "diamond", "#000000"], ["between cases", "case_sd", "circle-open", "#666666"]]
    .map(([name, key, symbol, color]) => ({
      name, x: view.scores.map(one => one[key]), y: view.scores.map(one => placeOf.get(one.method)), xaxis: "x2", mode: "markers",
      marker: { symbol, color, size: 10, line: { width: 2, color } }, hovertemplate: `SD ${name}: %{x}<extra></extra>`,
    }));
  const count = data.methods.length;
  return [[...trainings, ...spreads], layoutOf(count * Math.max(1, Math.min(seeds.length, 6) / 2.5) + 1, {
    xaxis: axis(`${unitOf(metric)} of each training`, { domain: [0, 0.56] }),
    yaxis: axis("", { tickvals: data.methods.map((_, i) => i), ticktext: data.methods.map(plain), range: [count - 0.4, -0.6] }),
    xaxis2: axis("standard deviation", { domain: [0.62, 1], rangemode: "tozero" }), ...LEGEND,
  })];
}

function mixed(share) {
  const at = share * (STEPS.length - 1), low = Math.min(Math.floor(at), STEPS.length - 2);
  const part = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map(i => Math.round(part(STEPS[low], i) + (at - low) * (part(STEPS[low + 1], i) - part(STEPS[low], i))))})`;
}

function rankPlot(view) {
  if (!view.ranks) return null;
  const { methods, chances } = view.ranks;
  const traces = methods.map((_, rank) => ({
    type: "bar", orientation: "h", name: `rank ${rank + 1}`, y: methods.map(plain), x: chances.map(own => own[rank]),
    marker: { color: mixed(methods.length > 1 ? rank / (methods.length - 1) : 0), line: { color: "#fff", width: 1 } },
    text: chances.map(own => own[rank] > 0.06 ? String(rank + 1) : ""), textposition: "inside", insidetextanchor: "middle", textangle: 0,
    hovertemplate: `%{y}: rank ${rank + 1} in a share of %{x:.3f}<extra></extra>`,
  }));
  return [traces, layoutOf(methods.length, { barmode: "stack", xaxis: axis("share of resamples", { range: [0, 1] }), yaxis: names(methods) })];
}

function strataPlot(view, metric, state) {
  const lines = view.strata[state.factor];
  if (!lines) return null;
  const levels = [...new Set(lines.map(line => line[0]))], count = data.methods.length;
  const traces = data.methods.map((name, place) => {
    const own = lines.filter(line => line[1] === name), values = own.map(line => line[2]);
    return {
      name: plain(name), x: own.map(line => levels.indexOf(line[0]) + 0.7 * ((place + 0.5) / count - 0.5)), y: values, mode: "markers",
      error_y: { ...around(values, own.map(line => line[3]), own.map(line => line[4])), color: colourOf(name) },
      marker: { color: colourOf(name), symbol: symbolOf(name), size: 9 },
      text: own.map(line => plain(`${line[0]}, ${line[5]} cases`)), hovertemplate: "%{text}: %{y}<extra>%{fullData.name}</extra>",
    };
  });
  return [traces, layoutOf(12, {
    xaxis: axis(plain(state.factor), { tickvals: levels.map((_, i) => i), ticktext: levels.map(plain), range: [-0.5, levels.length - 0.5] }),
    yaxis: axis(unitOf(metric)), showlegend: true,
  })];
}

function curvePlot(view, metric, state) {
  const runs = data.curves[state.curve];
  if (!runs) return null;
  const seen = new Set();
  const traces = runs.map(([method, fold, seed, steps, values]) => {
    const isFirst = !seen.has(method);
    seen.add(method);
    return {
      name: plain(method), legendgroup: method, showlegend: isFirst, x: steps, y: values, mode: steps.length > 1 ? "lines" : "markers",
      line: { color: colourOf(method), dash: dashOf(method), width: 1.3 }, marker: { symbol: symbolOf(method) }, opacity: 0.7,
      hovertemplate: `step %{x}: %{y}<extra>${plain(`${method}, fold ${fold}, seed ${seed}`)}</extra>`,
    };
  });
  return [traces, layoutOf(12, {
    xaxis: axis("step"), yaxis: axis(plain(state.curve), { type: state.logarithmic ? "log" : "linear" }), showlegend: true,
  })];
}
