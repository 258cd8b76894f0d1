"use strict";
// One state, `visible` (cells that pass the filters, in the order of the table) and `picked` (selected cells). Every view
// shows it and changes it through `show` and `pick` alone. All texts of the run enter the page as text nodes.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const { cells, metrics, pictures } = data;
  const state = { metric: metrics[0], visible: cells.map((cell) => cell.cell), picked: new Set() };

  function element(name, text, className) {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  function fill(parent, nodes) {
    parent.replaceChildren(...nodes);
  }

  function options(select, entries) {
    fill(select, entries.map(([value, text]) => Object.assign(element("option", text), { value })));
  }

  // ---- The state

  // `source` is the chart that the selection is made in, which keeps its rectangle and the marks of its legend.
  function pick(chosen, source) {
    state.picked = new Set(chosen);
    showState();
    charts.pick(source);
    table.pick();
    sheet.pick();
    paths.pick();
  }

  function toggle(cell) {
    pick(state.picked.has(cell) ? [...state.picked].filter((one) => one !== cell) : [...state.picked, cell]);
  }

  function show(visible) {
    if (visible.join() === state.visible.join()) return;
    state.visible = visible;
    showState();
    charts.fill();
    sheet.fill();
    paths.fill();
  }

  function showState() {
    const shown = state.visible.length === cells.length ? `${cells.length} cells` : `${state.visible.length} of ${cells.length} cells`;
    find("state").textContent = state.picked.size ? `${shown}, ${state.picked.size} selected` : shown;
    find("clear").disabled = !state.picked.size;
  }

  // ---- Charts

  const charts = (() => {
    const ink = "currentColor";
    const axis = { labelColor: ink, titleColor: ink, tickColor: ink, domainColor: ink, gridColor: ink, gridOpacity: 0.13, domainOpacity: 0.5, tickOpacity: 0.5 };
    const config = {
      background: null,
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis,
      legend: { labelColor: ink, titleColor: ink },
      header: { labelColor: ink, titleColor: ink, labelFontWeight: "bold" },
      text: { color: ink },
    };
    const views = new Map();
    let across = metrics.length ? Object.keys(metrics[0].convergence)[0] : undefined;

    function records() {
      const metric = state.metric;
      return state.visible.map((i) => ({
        ...cells[i],
        value: metric.values[i],
        text: metric.texts[i],
        short: metric.short[i],
        low: metric.low[i],
        high: metric.high[i],
        loss: metric.loss[i],
      }));
    }

    // The records of the error chart are the levels that a cell passes, in place of the cells.
    function recordsOf(id) {
      if (id !== "errors") return records();
      return state.visible.flatMap((i) => data.errors.of_cells[i].map((level) => ({ ...cells[i], ...level })));
    }

    async function draw(id, spec) {
      views.get(id)?.finalize();
      views.delete(id);
      const result = await vegaEmbed(find(id), { ...spec, config, datasets: { cells: recordsOf(id) } }, {
        ast: true, // expressions are interpreted, since the page's policy forbids making code from text
        renderer: "svg",
        actions: { export: { svg: true, png: false }, source: false, compiled: false, editor: false },
        downloadFileName: `${data.title}_${state.metric.name}_${id}`,
      });
      views.set(id, result);
      result.view.addEventListener("click", (event, item) => {
        if (item?.datum?.cell !== undefined) toggle(item.datum.cell);
      });
      if (spec.layer && id !== "errors") {
        result.view.addSignalListener("brush", (name, box) => brushed(id, box));
        result.view.addSignalListener("legend", (name, chosen) => pickGroups(id, chosen.group ?? []));
      }
      await pickView(id, result.view);
    }

    let ofLegend = null; // the selection, if a legend made it
    function pickGroups(id, groups) {
      if (!groups.length && state.picked !== ofLegend) return; // a legend whose selection was replaced by another
      pick(state.visible.filter((i) => groups.includes(cells[i].group)), id);
      ofLegend = state.picked;
    }

    let waiting;
    function brushed(id, box) {
      const field = id === "convergence" ? across : id;
      if (!box?.[field] || !box.value) return;
      const inside = (value, [a, b]) => value !== null && value >= Math.min(a, b) && value <= Math.max(a, b);
      const chosen = state.visible.filter((i) => inside(cells[i][field], box[field]) && inside(state.metric.values[i], box.value));
      clearTimeout(waiting); // a drag sends many rectangles
      waiting = setTimeout(() => pick(chosen, id), 60);
    }

    function fillView(id, view) {
      view.data("cells", recordsOf(id));
      return pickView(id, view);
    }

    function pickView(id, view) {
      view.signal("picked", [...state.picked]);
      if (id === "convergence") {
        const field = ["strength", "images"].includes(across) ? `${across}_line` : "line";
        view.signal("picked_lines", [...new Set([...state.picked].map((i) => cells[i][field]))]);
      }
      return view.runAsync();
    }

    function heatColumns(spec) {
      const panels = spec.facet.sort.length;
      const steps = new Set(cells.map((cell) => cell.x)).size;
      const room = Math.floor((find("heat").clientWidth - 40) / (52 * steps + 90));
      return Math.max(1, Math.min(panels, room));
    }

    function drawHeat() {
      const { heat } = state.metric;
      return draw("heat", { ...heat, columns: heatColumns(heat) });
    }

    function drawAll() {
      const { costs, convergence } = state.metric;
      return Promise.all([
        draw("passes", costs.passes),
        draw("seconds", costs.seconds),
        data.converges && draw("convergence", convergence[across]),
        drawHeat(),
      ]);
    }

    return {
      start() {
        if (!metrics.length) {
          find("charts").hidden = find("metric-choice").hidden = true;
          return Promise.resolve();
        }
        options(find("metric"), metrics.map((metric) => [metric.name, metric.heading]));
        find("about").textContent = state.metric.about;
        find("metric").addEventListener("change", (event) => {
          state.metric = metrics.find((metric) => metric.name === event.target.value);
          find("about").textContent = state.metric.about;
          drawAll();
          sheet.fill();
        });
        options(find("across"), Object.entries(metrics[0].convergence).map(([name, spec]) => [name, data.across[name]]));
        find("across").addEventListener("change", (event) => {
          across = event.target.value;
          draw("convergence", state.metric.convergence[across]);
        });
        let columns = heatColumns(state.metric.heat);
        new ResizeObserver(() => {
          if (columns !== (columns = heatColumns(state.metric.heat))) drawHeat();
        }).observe(find("charts"));
        find("error-path").hidden = !data.errors;
        find("convergence").parentElement.hidden = !data.converges;
        return Promise.all([drawAll(), data.errors && draw("errors", data.errors.view)]);
      },
      fill: () => views.forEach((result, id) => fillView(id, result.view)),
      pick(source) {
        views.forEach((result, id) => {
          if (id !== source && id !== "heat" && id !== "errors") result.view.data("brush_store", []).data("legend_store", []);
          pickView(id, result.view);
        });
      },
    };
  })();

  // ---- The table

  const table = (() => {
    let grid;
    let follows = false; // whether a change of the selected rows follows from the state

    const condition = /^\s*(>=|<=|!=|>|<|=)?\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*$/i;
    const span = /^\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*\.\.\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*$/i;
    const compare = {
      ">=": (a, b) => a >= b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, "<": (a, b) => a < b,
      "=": (a, b) => a === b, "!=": (a, b) => a !== b,
    };

    function matches(wanted, value) {
      if (typeof value === "number") {
        const range = span.exec(wanted);
        if (range) return value >= Number(range[1]) && value <= Number(range[2]);
        const found = condition.exec(wanted);
        if (found) return compare[found[1] ?? "="](value, Number(found[2]));
      }
      return String(value ?? "").toLowerCase().includes(wanted.trim().toLowerCase());
    }

    function sorter(a, b) {
      if (typeof a === "number" && typeof b === "number") return a - b;
      return String(a ?? "").localeCompare(String(b ?? ""), "en", { numeric: true });
    }

    // Missing values are last in both directions.
    function missingLast(a, b, rowA, rowB, column, direction) {
      const missing = (a === null) - (b === null);
      return missing ? (direction === "asc" ? missing : -missing) : sorter(a, b);
    }

    function definition(column, index) {
      return {
        title: column.heading,
        field: `c${index}`,
        visible: column.people,
        hozAlign: column.left ? "left" : "right",
        headerHozAlign: column.left ? "left" : "right",
        titleFormatter: () => element("span", column.heading),
        formatter(cell) {
          const text = column.texts[cell.getRow().getData().cell];
          return element("span", text, text.includes("★") ? "best" : text === "failed" ? "failed" : "");
        },
        sorter: missingLast,
        headerFilter: "input",
        headerFilterPlaceholder: column.left ? "contains" : ">= 0",
        headerFilterFunc: matches,
        minWidth: 70,
        maxInitialWidth: 320,
      };
    }

    function choices() {
      fill(find("column-choice"), data.columns.map((column, index) => {
        const label = element("label", ` ${column.heading}`);
        const box = Object.assign(element("input"), { type: "checkbox", checked: column.people });
        box.addEventListener("change", () => grid.toggleColumn(`c${index}`));
        label.prepend(box);
        return label;
      }));
    }

    // The table above draws only the rows in view, so a printed page has a plain one.
    function print() {
      const columns = data.columns.filter((column, index) => grid.getColumn(`c${index}`).isVisible());
      const line = (name, texts) => {
        const row = element("tr");
        row.append(...texts.map((text) => element(name, text)));
        return row;
      };
      const head = element("thead");
      head.append(line("th", columns.map((column) => column.heading)));
      const body = element("tbody");
      body.append(...state.visible.map((i) => line("td", columns.map((column) => column.texts[i]))));
      fill(find("printed"), [head, body]);
    }

    return {
      start() {
        choices();
        addEventListener("beforeprint", print);
        grid = new Tabulator(find("table"), {
          data: cells.map(({ cell }) => ({
            cell, ...Object.fromEntries(data.columns.map((column, index) => [`c${index}`, column.values[cell]])),
          })),
          index: "cell",
          columns: data.columns.map(definition),
          layout: "fitDataTable",
          maxHeight: "70vh",
          selectableRows: true,
          columnDefaults: { headerSortTristate: true },
        });
        const shown = (rows) => show(rows.map((row) => row.getData().cell));
        grid.on("dataFiltered", (filters, rows) => shown(rows));
        grid.on("dataSorted", (sorters, rows) => shown(rows));
        grid.on("rowSelectionChanged", (chosen) => {
          if (!follows) pick(chosen.map((row) => row.cell));
        });
        return new Promise((resolve) => grid.on("tableBuilt", resolve));
      },
      pick() {
        follows = true;
        const before = new Set(grid.getSelectedData().map((row) => row.cell));
        grid.deselectRow([...before].filter((cell) => !state.picked.has(cell)));
        const added = [...state.picked].filter((cell) => !before.has(cell));
        grid.selectRow(added);
        follows = false;
        if (added.length) grid.scrollToRow(added[0], "center", false).catch(() => {}); // fails if a filter leaves it out
      },
    };
  })();

  // ---- Pictures

  const sheet = (() => {
    let prompt = 0;
    let open = null; // the cell in the viewer
    const withPictures = () => state.visible.filter((i) => pictures.of_cells[i].length);

    function picture(source, text) {
      return Object.assign(element("img"), { src: source, alt: text, decoding: "async" });
    }

    function tile(i) {
      const box = element("div", undefined, "tile");
      box.dataset.cell = i;
      const source = pictures.of_cells[i][prompt];
      if (source) {
        const enlarge = Object.assign(element("button"), { type: "button" });
        enlarge.append(picture(source, `${cells[i].name}: ${pictures.prompts[prompt]}`));
        enlarge.addEventListener("click", () => view(i));
        box.append(enlarge);
      } else {
        box.append(element("div", cells[i].reason || "no picture", "missing"));
      }
      const name = Object.assign(element("button", cells[i].name, "name"), { type: "button" });
      name.addEventListener("click", () => toggle(i));
      box.append(name);
      if (state.metric) box.append(element("span", state.metric.texts[i], "value"));
      return box;
    }

    function input() {
      const box = element("div", undefined, "tile");
      box.append(picture(pictures.inputs[prompt], "input picture"), element("span", "input picture"));
      return box;
    }

    function filled() {
      const shown = find("only-selected").checked ? state.visible.filter((i) => state.picked.has(i)) : state.visible;
      fill(find("sheet"), [...(pictures.inputs[prompt] ? [input()] : []), ...shown.map(tile)]);
      picked();
    }

    function picked() {
      for (const box of find("sheet").children) {
        if (box.dataset.cell !== undefined) box.classList.toggle("picked", state.picked.has(Number(box.dataset.cell)));
      }
    }

    function choose(next) {
      prompt = (next + pictures.prompts.length) % pictures.prompts.length;
      find("prompt").value = String(prompt);
      filled();
      if (open !== null) view(open);
    }

    function view(i) {
      open = i;
      find("viewer-name").textContent = cells[i].label;
      find("viewer-prompt").textContent = pictures.prompts[prompt];
      Object.assign(find("viewer-picture"), { src: pictures.of_cells[i][prompt], alt: pictures.prompts[prompt] });
      const values = [
        ...metrics.map((metric) => [metric.heading, metric.texts[i]]),
        ["network passes", cells[i].passes_text],
        ["seconds per image", cells[i].seconds_text],
      ];
      fill(find("viewer-values"), values.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
      if (!find("viewer").open) find("viewer").showModal();
    }

    function key(event) {
      const others = withPictures();
      const at = others.indexOf(open);
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) view(others[(at + by + others.length) % others.length]);
      else if (event.key === "ArrowUp") choose(prompt - 1);
      else if (event.key === "ArrowDown") choose(prompt + 1);
      else return;
      event.preventDefault();
    }

    return {
      start() {
        if (!pictures.prompts.length) {
          find("pictures").hidden = !pictures.left_out;
          find("sheet").hidden = find("pictures").querySelector(".controls").hidden = true;
          find("left-out").textContent = pictures.left_out;
          return;
        }
        options(find("prompt"), pictures.prompts.map((text, k) => [k, `${k + 1}. ${text}`]));
        find("prompt").addEventListener("change", (event) => choose(Number(event.target.value)));
        find("previous-prompt").addEventListener("click", () => choose(prompt - 1));
        find("next-prompt").addEventListener("click", () => choose(prompt + 1));
        find("only-selected").addEventListener("change", filled);
        find("size").value = "128";
        find("size").addEventListener("input", (event) => find("sheet").style.setProperty("--size", `${event.target.value}px`));
        find("left-out").textContent = pictures.left_out;
        find("viewer").addEventListener("keydown", key);
        find("viewer").addEventListener("close", () => { open = null; });
        filled();
      },
      fill() {
        if (pictures.prompts.length) filled();
      },
      pick() {
        if (find("only-selected").checked) filled();
        else picked();
      },
    };
  })();

  // ---- Paths

  const paths = (() => {
    const of = data.paths.of_cells;
    const known = of.some((path) => path.length);

    function row(i) {
      const box = element("div", undefined, "path");
      box.dataset.cell = i;
      const name = Object.assign(element("button", cells[i].name, "name"), { type: "button" });
      name.addEventListener("click", () => toggle(i));
      box.append(name);
      for (const [level, source] of of[i]) {
        const step = element("figure");
        const text = `${cells[i].name}: x̂₀ at σ = ${level}`;
        step.append(Object.assign(element("img"), { src: source, alt: text, decoding: "async", loading: "lazy" }));
        step.append(element("span", `σ ${level}`));
        box.append(step);
      }
      return box;
    }

    function picked() {
      for (const box of find("path-rows").children) box.classList.toggle("picked", state.picked.has(Number(box.dataset.cell)));
    }

    function filled() {
      if (!known) return;
      fill(find("path-rows"), state.visible.filter((i) => of[i].length).map(row));
      picked();
    }

    return {
      start() {
        find("paths").hidden = !known && !data.paths.left_out;
        find("paths-left-out").textContent = data.paths.left_out;
        filled();
      },
      fill: filled,
      pick: picked,
    };
  })();

  // ---- Texts

  function texts() {
    find("title").textContent = data.title;
    fill(find("summary"), data.summary.map((line) => element("p", line)));
    fill(find("protocol"), Object.entries(data.protocol).flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
    find("bibtex").textContent = data.bibtex.join("\n");
    fill(find("notes"), data.notes.map((line) => element("li", line)));
  }

  async function start() {
    texts();
    showState();
    find("clear").addEventListener("click", () => pick([]));
    sheet.start();
    paths.start();
    await Promise.all([table.start(), charts.start()]);
    document.body.dataset.ready = "true";
  }
  start();
})();
