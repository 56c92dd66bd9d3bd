"use strict";
// Draws the panels of the page with uPlot from the data that stands in it. Without this script the static drawings stay.
(() => {
  const data = JSON.parse(document.getElementById("figure-data").textContent);
  const section = document.getElementById("figures");
  const toolbar = section.querySelector(".toolbar");
  const spoken = section.querySelector(".spoken");
  const FONT = '11px "Helvetica Neue", Helvetica, Arial, "Liberation Sans", system-ui, sans-serif';
  const LABEL_ROW = 14, LABEL_ROWS = 3;
  const view = { scale: "log", time: "step" };
  const hidden = new Set();
  let charts = [], time = null, zooming = false;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const lineColour = (line) => colour(`line-${line.style % data.colours}`);
  const dashOf = (line) => (line.faint ? [] : data.dashes[line.style % data.dashes.length].map((length) => length * 1.4));

  // Time. A position is what the x scale of a plot holds: a decade or a plain value, of steps or of optimiser time.

  function flowTime(step) {
    const [steps, flow] = data.flow;
    const last = steps.length - 1;
    if (step < steps[0] || step > steps[last]) return null;
    const i = Math.max(1, steps.findIndex((s) => s >= step));
    return flow[i - 1] + ((step - steps[i - 1]) / (steps[i] - steps[i - 1])) * (flow[i] - flow[i - 1]);
  }

  function timeAxis() {
    const measured = new Map();
    const steps = new Set(data.grids.flat());
    for (const step of steps) measured.set(step, view.time === "flow" ? flowTime(step) : step);
    const values = [...measured.values()].filter((value) => value !== null);
    const positive = values.filter((value) => value > 0);
    const first = positive.length ? positive.reduce((a, b) => Math.min(a, b)) : 1;
    const last = positive.length ? positive.reduce((a, b) => Math.max(a, b)) : 1;
    const fromZero = positive.length < values.length;
    const log = view.scale === "log";
    const origin = log ? Math.log10(first) - Math.max(0.08 * Math.log10(last / first), 0.1) : 0;
    const place = (value) => (log ? (value > 0 ? Math.log10(value) : origin) : value);
    const value = (position) => (log ? (position < Math.log10(first) - 1e-9 ? 0 : 10 ** position) : position);
    const low = fromZero ? origin : place(first), high = place(last);
    const margin = high > low ? 0.02 * (high - low) : log ? 0.5 : Math.max(1, Math.abs(high)) / 2;
    const at = (step) => {
      const moment = measured.has(step) ? measured.get(step) : view.time === "flow" ? flowTime(step) : step;
      return moment === null ? null : place(moment);
    };
    return { at, value, log, first, last, origin, fromZero, limits: [low - margin, high + margin] };
  }

  function timeTicks(low, high) {
    if (!time.log) return evenTicks(low, high);
    const floor = Math.max(low, Math.log10(time.first) - 1e-9);
    const zero = time.fromZero && low <= time.origin ? [time.origin] : [];
    const ticks = time.first === time.last ? [time.first] : logTicks(10 ** floor, 10 ** high);
    return zero.concat(ticks.map(Math.log10));
  }

  function logTicks(low, high) {
    const exponents = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) exponents.push(e);
    const inside = (values) => values.filter((v) => v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9));
    const decades = inside(exponents.map((e) => 10 ** e));
    if (decades.length > 2) return decades.filter((_, i) => i % Math.ceil(decades.length / 8) === 0);
    const rounds = inside(exponents.flatMap((e) => [1, 2, 5].map((m) => m * 10 ** e)));
    return rounds.length > 1 ? rounds : inside(evenTicks(low, high));
  }

  function evenTicks(low, high, most = 6) {
    const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) ticks.push(i * step + 0); // no "−0"
    return ticks;
  }

  // Words.

  function tickLabel(value) {
    const exponent = value > 0 ? Math.log10(value) : 0;
    if (Math.abs(exponent - Math.round(exponent)) < 1e-9 && Math.abs(Math.round(exponent)) > 3) {
      return `10${raised(Math.round(exponent))}`;
    }
    return number(value, 6);
  }

  const raised = (exponent) => String(exponent).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));

  function number(value, digits = 4) {
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e7)) {
      const [digit, exponent] = value.toExponential(2).split("e");
      return `${digit.replace("-", "−")}×10${raised(Number(exponent))}`;
    }
    return value.toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");
  }

  function moment(position) {
    const value = time.value(position);
    return view.time === "flow" ? `Σ lr ${number(value)}` : `${data.unit} ${number(value, 10)}`;
  }

  // Plots.

  function tableOf(line) {
    const x = [], y = [], low = [], high = [], dots = new Set(line.dots), dotted = new Set();
    data.grids[line.x].forEach((step, i) => {
      const position = time.at(step);
      if (position === null) return;
      if (x.length && position <= x[x.length - 1]) { x.pop(); y.pop(); low.pop(); high.pop(); }
      x.push(position); y.push(line.y[i]);
      if (line.low) { low.push(line.low[i]); high.push(line.high[i]); }
      if (dots.has(i)) dotted.add(position);
    });
    return { line, dotted, x, y, edges: line.low ? [low, high] : [] };
  }

  function seriesOf({ line, dotted }, panel) {
    const dots = (u) => u.data[0].flatMap((x, i) => (dotted.has(x) ? [i] : []));
    const stroke = () => lineColour(line);
    return {
      stroke, width: line.faint ? 1 : 1.8, alpha: line.faint ? 0.4 : 1, dash: dashOf(line), show: isShown(line, panel),
      points: { show: true, size: line.faint ? 0 : 5, stroke, fill: stroke, filter: dots },
    };
  }

  const isShown = (line, panel) => !hidden.has(`${panel.key}/${line.name}`);
  const positive = (values) => values.map((v) => (v === undefined || (v !== null && v > 0) ? v : null));

  function chartOf(panel) {
    const figure = section.querySelector(`[data-panel="${panel.key}"]`);
    const tables = panel.lines.map(tableOf);
    const banded = tables.filter((table) => table.edges.length);
    // The edges of all bands come before all lines: what comes later is drawn on top.
    const joined = uPlot.join([...banded.map(({ x, edges }) => [x, ...edges]), ...tables.map(({ x, y }) => [x, y])]);
    const columns = panel.log ? [joined[0], ...joined.slice(1).map(positive)] : joined;
    const edge = ({ line }) => ({ stroke: "transparent", width: 0, points: { show: false }, show: isShown(line, panel) });
    banded.forEach((table, i) => { table.edgesAt = [2 * i + 1, 2 * i + 2]; });
    tables.forEach((table, i) => { table.lineAt = 2 * banded.length + i + 1; });
    const bands = banded.map(({ line, edgesAt: [low, high] }) => ({ series: [high, low], fill: () => `${lineColour(line)}2b` }));
    const series = [...banded.flatMap((table) => [edge(table), edge(table)]), ...tables.map((table) => seriesOf(table, panel))];
    const chart = { panel, figure, tables };
    chart.plot = new uPlot(options(chart, series, bands), columns, figure.querySelector(".live"));
    return chart;
  }

  function options(chart, series, bands) {
    const { panel, figure } = chart;
    const width = figure.clientWidth;
    const rows = 1 + Math.max(-1, ...labelRows(width - 64, ...time.limits).map((label) => label.row ?? -1));
    const axis = { stroke: () => colour("muted"), font: FONT, ticks: { show: true, stroke: () => colour("rule"), width: 1, size: 5 } };
    return {
      width, height: Math.max(190, Math.min(250, width * 0.5)) + rows * LABEL_ROW, series: [{}, ...series], bands,
      padding: [6 + rows * LABEL_ROW, 12, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: false, auto: false, range: (u, low, high) => (low === null || low === undefined ? time.limits : [low, high]) },
        y: { distr: panel.log ? 3 : 1, range: (u, low, high) => valueRange(panel, low, high) },
      },
      axes: [
        { ...axis, size: 30, grid: { show: false }, border: { show: true, stroke: () => colour("rule"), width: 1 },
          label: view.time === "flow" ? "optimiser time, Σ lr" : data.unit, labelFont: FONT, labelSize: 16, labelGap: 0, splits: (u, i, low, high) => timeTicks(low, high), values: (u, splits) => splits.map((p) => tickLabel(time.value(p))) },
        { ...axis, size: 52, ticks: { show: false }, grid: { stroke: () => colour("grid"), width: 1 },
          splits: (u, i, low, high) => (panel.log ? logTicks(low, high) : evenTicks(low, high)), filter: (u, splits) => splits, values: (u, splits) => splits.map(tickLabel) },
      ],
      cursor: {
        y: false, drag: { x: true, y: false, dist: 4 }, sync: { key: "time", scales: ["x", null] }, points: { size: 7 },
        bind: { dblclick: () => () => reset() },
      },
      hooks: {
        drawClear: [(u) => drawMarks(u, panel)], draw: [(u) => drawLabels(u, panel)],
        setCursor: [() => readOut(chart)], setScale: [(u, key) => key === "x" && follow(u)],
      },
    };
  }

  function valueRange(panel, low, high) {
    if (panel.bounds) return [panel.bounds[0] - 0.03, panel.bounds[1] + 0.03];
    if (low === null || low === undefined) return panel.log ? [0.1, 10] : [0, 1];
    for (const [level] of panel.levels) [low, high] = [Math.min(low, level), Math.max(high, level)];
    if (panel.log) {
      const margin = Math.max((high / low) ** 0.04, 1.2);
      return [low / margin, high * margin];
    }
    const margin = high > low ? 0.06 * (high - low) : Math.max(Math.abs(high), 1) * 0.1;
    return [low - margin, high + margin];
  }

  // Marks: clocks are dashed, events dotted; a label that finds no free row is left out.

  function labelRows(width, low, high) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = FONT;
    const taken = [];
    return data.marks.map((mark) => {
      const position = time.at(mark.step);
      if (position === null || position < low || position > high) return { mark, position: null, row: null };
      const half = pen.measureText(mark.label).width / 2 + 4;
      const centre = Math.min(Math.max(((position - low) / (high - low)) * width, half), width - half);
      const free = (row) => taken.every((t) => t.row !== row || centre + half <= t.left || centre - half >= t.right);
      const row = [...Array(LABEL_ROWS).keys()].find(free) ?? null;
      if (row !== null) taken.push({ row, left: centre - half, right: centre + half });
      return { mark, position, row, centre };
    });
  }

  function drawMarks(u, panel) {
    const { left, top, width, height } = u.bbox, scale = uPlot.pxRatio;
    u.ctx.save();
    u.ctx.lineWidth = scale;
    const stroke = (dash, ink, from, to) => {
      u.ctx.setLineDash(dash.map((length) => length * scale));
      u.ctx.strokeStyle = colour(ink);
      u.ctx.beginPath(); u.ctx.moveTo(...from); u.ctx.lineTo(...to); u.ctx.stroke();
    };
    for (const { mark, position } of labelRows(width / scale, u.scales.x.min, u.scales.x.max)) {
      if (position === null) continue;
      const x = u.valToPos(position, "x", true);
      stroke(mark.kind === "clock" ? [5, 3] : [1, 3], mark.kind === "clock" ? "ink" : "muted", [x, top], [x, top + height]);
    }
    for (const [level] of panel.levels) {
      const y = u.valToPos(level, "y", true);
      if (y >= top && y <= top + height) stroke([1, 2], "muted", [left, y], [left + width, y]);
    }
    u.ctx.restore();
  }

  function drawLabels(u, panel) {
    const { left, top, width, height } = u.bbox, scale = uPlot.pxRatio;
    u.ctx.save();
    u.ctx.font = FONT.replace("11px", `${11 * scale}px`);
    u.ctx.textAlign = "center";
    for (const { mark, row, centre } of labelRows(width / scale, u.scales.x.min, u.scales.x.max)) {
      if (row === null) continue;
      u.ctx.fillStyle = colour(mark.kind === "clock" ? "ink" : "muted");
      u.ctx.fillText(mark.label, left + centre * scale, top - (6 + row * LABEL_ROW) * scale);
    }
    u.ctx.textAlign = "right";
    u.ctx.lineWidth = 4 * scale;
    u.ctx.strokeStyle = colour("paper");
    u.ctx.fillStyle = colour("muted");
    for (const [level, label] of panel.levels) {
      const x = left + width - 2 * scale, y = u.valToPos(level, "y", true) - 5 * scale;
      if (y < top || y > top + height) continue;
      u.ctx.strokeText(label, x, y);
      u.ctx.fillText(label, x, y);
    }
    u.ctx.restore();
  }

  // Reading values.

  function nearest(positions, position) {
    let low = 0, high = positions.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (positions[middle] < position) low = middle + 1; else high = middle;
    }
    return low > 0 && position - positions[low - 1] < positions[low] - position ? low - 1 : low;
  }

  function readOut(chart) {
    const { plot, figure, tables } = chart;
    const position = plot && plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null;
    figure.querySelector(".at").textContent = position === null ? "" : `at ${moment(plot.data[0][nearest(plot.data[0], position)])}`;
    for (const { line, x, y } of tables) {
      if (line.faint) continue;
      const cell = [...figure.querySelectorAll(".legend button")].find((button) => button.value === line.name).querySelector(".value");
      const value = position === null || !x.length ? null : y[nearest(x, position)];
      cell.textContent = position === null ? "" : value === null ? "not finite" : number(value);
    }
  }

  function legendOf(figure, panel) {
    const list = figure.querySelector(".legend");
    const names = panel.lines.filter((line) => !line.faint).map((line) => line.name);
    list.querySelectorAll("[data-line]").forEach((item, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.value = names[i];
      button.setAttribute("aria-pressed", "true");
      button.title = "show or hide this line";
      button.append(...item.childNodes);
      button.append(Object.assign(document.createElement("span"), { className: "value" }));
      button.addEventListener("click", () => toggle(panel, button));
      item.append(button);
    });
    list.append(Object.assign(document.createElement("li"), { className: "at" }));
  }

  function toggle(panel, button) {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    hidden[shown ? "delete" : "add"](`${panel.key}/${button.value}`);
    const chart = charts.find((c) => c.panel === panel);
    for (const { line, lineAt, edgesAt = [] } of chart.tables) {
      if (line.name === button.value) [lineAt, ...edgesAt].forEach((i) => chart.plot.setSeries(i, { show: shown }));
    }
  }

  // Zooming, all panels together.

  function follow(u) {
    if (zooming) return;
    zooming = true;
    const { min, max } = u.scales.x;
    charts.forEach((chart) => chart.plot !== u && chart.plot.setScale("x", { min, max }));
    zooming = false;
  }

  function zoomTo(low, high) {
    if (charts.length) charts[0].plot.setScale("x", { min: low, max: high });
  }

  const reset = () => zoomTo(...time.limits);

  function zoomBy(factor, chart) {
    const plot = (chart ?? charts[0]).plot;
    const { min, max } = plot.scales.x;
    const centre = plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : (min + max) / 2;
    const low = Math.max(centre - (centre - min) * factor, time.limits[0]), high = Math.min(centre + (max - centre) * factor, time.limits[1]);
    if (high - low > 1e-6 * (time.limits[1] - time.limits[0])) zoomTo(low, high);
  }

  function moveCursor(chart, by) {
    const { plot } = chart, { min, max } = plot.scales.x;
    const positions = plot.data[0].filter((p) => p >= min && p <= max);
    if (!positions.length) return;
    const here = plot.cursor.left >= 0 ? nearest(positions, plot.posToVal(plot.cursor.left, "x")) + by : by > 0 ? 0 : positions.length - 1;
    const position = positions[Math.min(Math.max(here, 0), positions.length - 1)];
    plot.setCursor({ left: plot.valToPos(position, "x"), top: plot.over.clientHeight / 2 }, true, true);
    const values = [...chart.figure.querySelectorAll(".legend button")].map((button) => button.textContent.trim());
    spoken.textContent = `${moment(position)}: ${values.join("; ")}`;
  }

  function onKey(event, chart) {
    const deeds = {
      ArrowRight: () => moveCursor(chart, event.shiftKey ? 10 : 1), ArrowLeft: () => moveCursor(chart, event.shiftKey ? -10 : -1),
      "+": () => zoomBy(0.5, chart), "=": () => zoomBy(0.5, chart), "-": () => zoomBy(2, chart), Escape: reset,
    };
    if (!deeds[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    deeds[event.key]();
  }

  // The page.

  function build() {
    charts.forEach((chart) => chart.plot.destroy());
    time = timeAxis();
    charts = [];
    zooming = true;
    charts = data.panels.map(chartOf);
    zooming = false;
    reset();
  }

  function start() {
    document.documentElement.classList.add("is-live");
    for (const panel of data.panels) {
      const figure = section.querySelector(`[data-panel="${panel.key}"]`);
      legendOf(figure, panel);
      const live = figure.querySelector(".live");
      live.tabIndex = 0;
      live.addEventListener("keydown", (event) => onKey(event, charts.find((chart) => chart.panel === panel)));
    }
    build();
    toolbar.hidden = false;
    toolbar.addEventListener("change", (event) => {
      view[event.target.name] = event.target.value;
      build();
    });
    toolbar.addEventListener("submit", (event) => event.preventDefault());
    const buttons = { in: () => zoomBy(0.5), out: () => zoomBy(2), reset };
    toolbar.querySelectorAll("button").forEach((button) => button.addEventListener("click", buttons[button.value]));
    const repaint = () => charts.forEach((chart) => chart.plot.redraw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    new ResizeObserver(() => charts.forEach(({ plot, figure }) => {
      if (figure.clientWidth && figure.clientWidth !== plot.width) plot.setSize({ width: figure.clientWidth, height: plot.height });
    })).observe(section);
  }

  if (!data.panels.length) return;
  try {
    start();
  } catch (error) {
    document.documentElement.classList.remove("is-live");
    throw error;
  }
})();

// Lets a slider choose the moment of the embedding view. Without it the stills stay.
(() => {
  const view = JSON.parse(document.getElementById("figure-data").textContent).embedding;
  if (!view) return;
  const section = document.querySelector(".embedding");
  const find = (name) => section.querySelector(name);
  const slider = find("#moment"), buttons = [...section.querySelectorAll(".chooser button")];
  const dots = [...find(".plane .dots").children];

  function say(name, words) {
    const place = find(name);
    if (place) place.textContent = words;
  }

  function show(place) {
    const moment = view.moments[place];
    dots.forEach((dot, i) => dot.setAttribute("transform", `translate(${moment.points[2 * i]} ${moment.points[2 * i + 1]})`));
    find(".plane .ring").setAttribute("d", moment.ring);
    find(".sliding .bars")?.setAttribute("d", moment.bars);
    say(".plane .first", moment.axes[0]);
    say(".plane .second", moment.axes[1]);
    say("output", moment.at);
    say(".told", moment.told);
    say(".strongest", moment.spectrum);
    find(".plane").setAttribute("aria-label", `Class means at ${moment.at}. ${moment.told}`);
    find(".spectrum")?.setAttribute("aria-label", `Fourier spectrum at ${moment.at}. ${moment.spectrum}`);
    slider.value = place;
    slider.setAttribute("aria-valuetext", moment.at);
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(Number(button.value) === place)));
  }

  slider.addEventListener("input", () => show(Number(slider.value)));
  buttons.forEach((button) => button.addEventListener("click", () => show(Number(button.value))));
  show(view.moments.length - 1);
  find(".sliding").hidden = false;
  section.classList.add("is-sliding");
})();
