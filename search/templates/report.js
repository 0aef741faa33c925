(() => {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 560px)");
  const touch = matchMedia("(pointer: coarse)");

  // Worst to best; the best stands out from the page in both schemes.
  const LIGHT_SCALE = ["#dfe6f3", "#cfdbf0", "#bccdec", "#a6bee8", "#8fade3", "#769bdd", "#5d88d6", "#4372cd", "#2459c7", "#1b429c", "#122c6b"];
  const DARK_SCALE = ["#262c39", "#2b364b", "#31415f", "#384e76", "#405c8f", "#4a6ca9", "#567ec4", "#6591e0", "#7aa5ff", "#a3c2ff", "#d3e2ff"];
  const LIGHT_SERIES = ["#2459c7", "#c9722e", "#1c7f5c", "#8a4fb5", "#b03a5b", "#5d7a1f"];
  const DARK_SERIES = ["#7aa5ff", "#f0a565", "#58c79a", "#c391ee", "#f07f9f", "#a9c661"];

  function theme() {
    const css = getComputedStyle(document.documentElement);
    const names = {};
    for (const name of ["paper", "ink", "second", "rule", "wash", "accent", "prune", "bad", "good", "soft"]) {
      names["@" + name] = css.getPropertyValue("--" + name).trim();
    }
    const scale = dark.matches ? DARK_SCALE : LIGHT_SCALE;
    scale.forEach((colour, i) => { names["@s" + i] = colour; });
    (dark.matches ? DARK_SERIES : LIGHT_SERIES).forEach((colour, i) => { names["@c" + i] = colour; });
    names["@scale"] = scale.map((colour, i) => [i / 10, colour]);
    names["@recency"] = scale.slice(2).map((colour, i) => [i / 8, colour]);
    return names;
  }

  function coloured(value, names) {
    if (typeof value === "string") return value[0] === "@" && value in names ? names[value] : value;
    if (Array.isArray(value)) return value.map((item) => coloured(item, names));
    if (value && typeof value === "object") {
      const copy = {};
      for (const key in value) copy[key] = coloured(value[key], names);
      return copy;
    }
    return value;
  }

  function template(names) {
    const axis = {
      gridcolor: names["@rule"], linecolor: names["@rule"], zerolinecolor: names["@rule"], zeroline: false,
      automargin: true, exponentformat: "power", tickfont: { color: names["@second"], size: 11 },
      title: { font: { color: names["@second"], size: 12 }, standoff: 10 },
    };
    const clear = "rgba(0,0,0,0)";
    return { layout: {
      font: { family: getComputedStyle(document.body).fontFamily, color: names["@ink"], size: 12 },
      paper_bgcolor: clear, plot_bgcolor: clear, xaxis: axis, yaxis: axis, colorway: [0, 1, 2, 3, 4, 5].map((i) => names["@c" + i]),
      legend: { font: { color: names["@second"], size: 12 }, bgcolor: clear },
      coloraxis: { colorbar: { outlinewidth: 0 } },
      hoverlabel: { bgcolor: names["@paper"], bordercolor: names["@soft"], align: "left", font: { color: names["@ink"], size: 12 } },
    } };
  }

  const CONFIG = {
    responsive: true, displaylogo: false, scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };

  function draw(plot) {
    const stored = JSON.parse(document.getElementById("figure-" + plot.dataset.figure).textContent);
    const names = theme();
    const figure = coloured(stored, names);
    figure.layout.template = template(names);
    figure.layout.height = plot.offsetHeight;
    figure.layout.autosize = true;
    if (touch.matches) figure.layout.dragmode = false;  // a finger scrolls the page, not the chart
    const shown = figure.data.filter((trace) => trace.showlegend !== false && trace.name).length;
    if (narrow.matches) {
      const scrolls = plot.offsetWidth > plot.parentElement.offsetWidth;
      if (!scrolls) figure.layout.margin = Object.assign({}, figure.layout.margin, { l: 8, r: 28 });
      if (shown > 5) figure.layout.showlegend = false;
    }
    plot.dataset.state = "drawing";
    return Plotly.react(plot, figure.data, figure.layout, CONFIG).then(
      () => { plot.dataset.state = "drawn"; },
      (error) => failed(plot, error),
    );
  }

  function failed(plot, error) {
    plot.dataset.state = "failed";
    plot.style.height = "auto";
    plot.textContent = "This figure could not be drawn here: " + error;
    plot.className = "note";
  }

  function attempt(plot) {
    try { return draw(plot); } catch (error) { failed(plot, error); return Promise.resolve(); }
  }

  const plots = [...document.querySelectorAll("[data-figure]")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.unobserve(entry.target); attempt(entry.target); }
    }
  }, { rootMargin: "500px 0px" });
  // plotly stands at the end of the file and takes a second or two: tables work before it
  addEventListener("DOMContentLoaded", () => plots.forEach((plot) => near.observe(plot)));

  const redraw = () => plots.filter((plot) => plot.dataset.state === "drawn").forEach(attempt);
  dark.addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);
  addEventListener("beforeprint", () => plots.filter((plot) => !plot.dataset.state).forEach(attempt));

  // Tables ----------------------------------------------------------------------------------------------------------
  function key(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    if (text === "" || text === "–") return null;
    const number = Number(text);
    return Number.isNaN(number) ? text.toLowerCase() : number;
  }

  function compare(a, b) {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  }

  function sort(table, column) {
    const head = table.tHead.rows[0].cells[column];
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
    const numeric = rows.some(([value]) => typeof value === "number");
    const before = head.getAttribute("aria-sort");
    const first = numeric && column !== 0 && column !== 1 ? "descending" : "ascending";
    const order = before ? (before === "ascending" ? "descending" : "ascending") : first;
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    limit(table);
  }

  function limit(table) {
    const shown = Number(table.dataset.shown) || Infinity;
    [...table.tBodies[0].rows].forEach((row, i) => { row.hidden = i >= shown; });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => cell.addEventListener("click", () => sort(table, column)));
  }
  for (const button of document.querySelectorAll("[data-more]")) {
    const table = document.querySelector("#" + button.dataset.more + " table");
    const [more, few] = [button.textContent, table.dataset.shown];
    button.addEventListener("click", () => {
      const all = table.dataset.shown !== "all";
      table.dataset.shown = all ? "all" : few;
      button.textContent = all ? "Show the first " + few : more;
      limit(table);
    });
  }

  // The section in view ---------------------------------------------------------------------------------------------
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.classList.remove("here"));
      const here = links.get(entry.target.id) || links.get("top");
      here.classList.add("here");
      const nav = here.parentElement;  // on a phone it is wider than the screen
      nav.scrollLeft = here.offsetLeft - (nav.clientWidth - here.offsetWidth) / 2;
    }
  }, { rootMargin: "-30% 0px -65% 0px" });
  document.querySelectorAll("section").forEach((section) => seen.observe(section));
})();
