"use strict";
// The state is asked for each second; what a row has below it when it is opened, and while something goes on in it.
const NONE = {
  jobs: "No job yet. Lab 04 makes the first one.", endpoints: "No endpoint. Lab 05 makes one.",
  models: "No model.", images: "No image. Lab 03 pushes one.", buckets: "No bucket. Lab 00 makes one.",
};
const GOOD = new Set(["Completed", "InService"]), BAD = new Set(["Failed"]), STILL = new Set(["Stopped"]);
const LOGGED = new Set(["training", "transform", "processing", "endpoint"]), DETAILED = new Set(["training", "tuning", "transform", "processing", "endpoint", "model"]);
// Where a thing of a kind is on the page; `job` in an address is any of the first three.
const SECTIONS = { training: "jobs", tuning: "jobs", transform: "jobs", processing: "jobs", job: "jobs", endpoint: "endpoints", model: "models", image: "images", bucket: "buckets" };
const rows = new Map();  // "kind/name" -> its row, trials included
const shown = { jobs: 50, endpoints: 50, models: 50, images: 50, buckets: 50, calls: 10 };
let wanted = null;  // { kind, name, rest } of the address, until it is opened
let pinned = null;  // the one that was opened last: it stays, even if it is too old to be listed
let looking = null, again = 0;

const find = (selector, within = document) => within.querySelector(selector);
const json = async (path) => {
  const answer = await fetch(path);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.message ?? `it answers ${answer.status}`);
  return said;
};

// What comes from the server only ever becomes text, so that no name, log line or object can be markup.
function set(node, text) { if (node.textContent !== text) node.textContent = text; }
function make(tag, name, parent, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text != null) node.textContent = text;
  parent?.append(node);
  return node;
}
// Builds `node` anew where its data is other data, so that a selection or the focus outlives a look.
function patch(node, data, build) {
  const words = JSON.stringify(data ?? null);
  if (node.said === words) return;
  node.said = words;
  node.replaceChildren();
  build(data);
}
function money(sum) {
  if (sum > 0 && sum < 0.0001) return "< $0.0001";
  return "$" + sum.toFixed(sum === 0 || sum >= 10 ? 2 : sum >= 0.1 ? 3 : 4);
}
const clock = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
const hours = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const short = (value) => String(Number(value.toPrecision(4)));
const plural = (count, word) => `${count.toLocaleString()} ${word}${count === 1 ? "" : "s"}`;
function span(seconds) {
  if (seconds < 59.95) return Math.max(0, seconds).toFixed(seconds < 10 ? 1 : 0) + " s";
  const minutes = Math.floor(seconds / 60), whole = Math.floor(minutes / 60), days = Math.floor(whole / 24);
  if (days) return `${days} d ${whole % 24} h`;
  return whole ? `${whole} h ${minutes % 60} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
}
function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  while (count >= 1000 && unit < 3) { count /= 1000; unit += 1; }
  return (unit ? count.toFixed(1) : count) + " " + units[unit];
}

// --- Addresses: #job/NAME, #endpoint/NAME, #model/NAME, #image/NAME, #bucket/NAME/PREFIX ---

const hash = ([kind, name, rest]) => `#${kind}/${encodeURIComponent(name)}${rest ? "/" + rest.split("/").map(encodeURIComponent).join("/") : ""}`;
function read(address) {
  const parts = address.slice(1).split("/");
  try {
    const [kind, ...path] = parts.map(decodeURIComponent);
    if (!(kind in SECTIONS) || !path[0]) return null;
    // Only a bucket's name has no slash: what follows is a prefix.
    return kind === "bucket" ? { kind, name: path[0], rest: path.slice(1).join("/") } : { kind, name: path.join("/"), rest: "" };
  } catch { return null; }
}
function link(parent, text, to) {
  const anchor = make("a", "", parent, text);
  anchor.href = hash(to);
  // An address that is open already is gone to again.
  anchor.addEventListener("click", () => { if (location.hash === anchor.hash) go(); });
  return anchor;
}
function go() {
  wanted = read(location.hash);
  find("#told").hidden = true;
  if (wanted) look();
}
function arrive(target) {
  const [kind, name] = target.at(-1), row = rows.get(`${kind}/${name}`);
  if (!row) {
    const parent = target.length > 1 && rows.get(target[0].join("/"));
    if (parent) { parent.also = name; parent.details.open = true; refresh(parent); }  // its trials are told then
    return;
  }
  const rest = wanted.rest;
  [pinned, wanted] = [wanted, null];
  for (let at = row.details; at; at = at.parentElement.closest("details")) at.open = true;
  if (kind === "bucket") browse(row, rest.endsWith("/") || !rest ? rest : rest.slice(0, rest.lastIndexOf("/") + 1), rest.endsWith("/") ? "" : rest);
  row.details.classList.remove("found");
  void row.details.offsetWidth;  // so that the animation begins again
  row.details.classList.add("found");
  row.summary.focus({ preventScroll: true });
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  row.details.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
}

// --- Pictures, each with its words ---

function shape(tag, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent?.append(node);
  return node;
}
function figure(parent, title, value, words) {
  const box = make("figure", "", parent), caption = make("figcaption", "", box);
  make("span", "", caption, title);
  make("b", "", caption, value);
  const svg = shape("svg", { viewBox: "0 0 240 84", role: "img", "aria-label": `${title}: ${words}` }, box);
  make("p", "", box, words);
  return svg;
}
function scales(points, columns) {
  const ys = points.flatMap((point) => columns.map((column) => point[column])), xs = points.map((point) => point[0]);
  let low = Math.min(...ys), high = Math.max(...ys);
  if (low === high) { const room = Math.abs(low) * 0.1 || 1; low -= room; high += room; }
  const first = Math.min(...xs), wide = Math.max(...xs) - first || 1;
  return {
    low, high,
    x: (value) => points.length === 1 ? 137 : 36 + 202 * (value - first) / wide,
    y: (value) => 74 - 66 * (value - low) / (high - low),
  };
}
function axes(svg, scale, format) {
  for (const value of [scale.low, (scale.low + scale.high) / 2, scale.high]) {
    const y = scale.y(value);
    shape("line", { class: "grid", x1: 36, x2: 238, y1: y, y2: y }, svg);
    shape("text", { x: 31, y: y + 3, "text-anchor": "end" }, svg).textContent = format(value);
  }
}
const path = (points, scale, column) => points.map((point, place) =>
  `${place ? "L" : "M"}${scale.x(point[0]).toFixed(1)} ${scale.y(point[column]).toFixed(1)}`).join("");

function drawMetric(parent, { name, points, final }) {
  if (points.length < 2) {  // one value: a bar, where it is a fraction
    const value = final ?? points[0][1];
    const svg = figure(parent, name, short(value), "the final value");
    if (value < 0 || value > 1) { svg.remove(); return; }
    svg.setAttribute("viewBox", "0 0 240 10");
    shape("rect", { class: "bar", width: 240, height: 8, y: 1, rx: 4 }, svg);
    shape("rect", { class: "part", width: Math.max(1, 240 * value), height: 8, y: 1, rx: 4 }, svg);
    return;
  }
  const values = points.map((point) => point[1]), last = values.at(-1);
  const words = `${plural(points.length, "value")} in ${span(points.at(-1)[0] - points[0][0])}, from ${short(values[0])} to ${short(last)}; `
    + `lowest ${short(Math.min(...values))}, highest ${short(Math.max(...values))}`;
  const svg = figure(parent, name, short(final ?? last), words);
  const steps = points.map((point, place) => [place, point[1]]);  // a log's lines come in bursts: each value has its place
  const scale = scales(steps, [1]);
  axes(svg, scale, short);
  shape("path", { class: "line", d: path(steps, scale, 1) }, svg);
  if (steps.length <= 30) for (const [x, y] of steps) shape("circle", { class: "dot", cx: scale.x(x), cy: scale.y(y), r: 2 }, svg);
}
function drawLatencies(parent, latencies) {
  for (const { variant, points, errors } of latencies) {
    if (!points.length) continue;
    const count = points.reduce((sum, point) => sum + point[3], 0);
    const mean = points.reduce((sum, point) => sum + point[1] * point[3], 0) / count, most = Math.max(...points.map((point) => point[2]));
    const failed = errors["4XX"] + errors["5XX"] ? `, ${errors["4XX"]} refused (4xx), ${errors["5XX"]} failed (5xx)` : "";
    const words = `${plural(count, "request")}, ${Number(mean.toPrecision(3))} ms on average in the container (line), longest ${Number(most.toPrecision(3))} ms (thin)${failed}`;
    const svg = figure(parent, latencies.length > 1 ? `Latency, ${variant}` : "Latency", Number(mean.toPrecision(3)) + " ms", words);
    const scale = scales([...points, [points[0][0], 0, 0]], [1, 2]);
    axes(svg, scale, (value) => short(Number(value.toPrecision(2))));
    if (points.length > 1) {
      shape("path", { class: "line faint", d: path(points, scale, 2) }, svg);
      shape("path", { class: "line", d: path(points, scale, 1) }, svg);
    }
    if (points.length <= 30) for (const point of points) shape("circle", { class: "dot", cx: scale.x(point[0]), cy: scale.y(point[1]), r: 2 }, svg);
  }
}
function drawObjective(parent, objective, trials) {
  const { points, MetricName: name, Type: type, best } = objective;
  if (!points.length) return;
  const pick = type === "Minimize" ? Math.min : Math.max, top = pick(...points.map((point) => point[1]));
  const number = trials.find((trial) => trial.name === best)?.number ?? points.find((point) => point[1] === top)[0];
  const words = `${plural(points.length, "training job")} in the order they began; the best, number ${number}, has ${short(top)}`;
  const svg = figure(parent, name, short(top), words), scale = scales(points, [1]);
  axes(svg, scale, short);
  for (const [x, y] of points) shape("circle", { class: x === number ? "best" : "dot", cx: scale.x(x), cy: scale.y(y), r: x === number ? 4 : 2.4 }, svg);
}

// --- Rows ---

function row(section, key, item) {
  const details = make("details", "", section), summary = make("summary", "", details), made = { details, summary, key, item, due: 2 };
  if (item.status) made.status = make("span", "status", summary);
  const name = make("span", "name", summary);
  made.name = make("b", "", name);
  made.what = make("span", "", name);
  made.when = make("span", "number quiet when", summary);
  if (made.status) made.took = make("span", "number took", summary);
  made.cost = make("span", "number cost", summary);
  made.reason = make("span", "reason", summary);
  const body = make("div", "body", details);
  for (const part of ["facts", "values", "drawn", "trials", "form", "files", "log"]) made[part] = make("div", "", body);
  details.addEventListener("toggle", () => refresh(made));
  rows.set(key, made);
  return made;
}
const busy = (status) => status && !GOOD.has(status) && !BAD.has(status) && !STILL.has(status);

function fill(made, item, now) {
  const status = item.status, on = busy(status);
  if (status !== made.item.status || item.best !== made.item.best || item.trials !== made.item.trials) made.due = 3;
  if (item.objects !== made.item.objects || item.bytes !== made.item.bytes) made.due = made.stale = 1;
  made.item = item;
  if (made.status) {
    set(made.status, status);
    made.status.className = "status " + (GOOD.has(status) ? "good" : BAD.has(status) ? "bad" : on ? "busy" : "still");
    set(made.took, span((item.ended ?? (on || item.kind === "endpoint" ? now : item.created)) - item.created));
    set(made.what, [item.what, on && item.secondary, item.instances].filter(Boolean).join(" · "));
    const value = item.value == null ? "" : short(item.value);
    set(made.cost, value || (item.cost != null ? money(item.cost) : item.instances ? "no price" : ""));
  } else {
    set(made.what, item.what ?? plural(item.objects, "object"));
    set(made.cost, item.bytes == null ? "" : bytes(item.bytes));
  }
  set(made.name, item.number ? `${item.number} · ${item.name}` : item.name);
  set(made.when, hours(item.created));
  made.when.title = clock(item.created);
  set(made.reason, item.reason ?? "");
  made.reason.hidden = !item.reason;
}

function facts(made, extra) {
  const item = made.item, all = [["Created", [{ at: item.created }]], ...extra];
  if (item.hourly) all.push(["On AWS", [money(item.hourly) + " an hour"]]);
  patch(made.facts, all, () => {
    const list = make("dl", "", made.facts);
    for (const [label, parts] of all) {
      make("dt", "", list, label);
      const value = make("dd", "", list);
      for (const part of parts) {
        if (part.to) link(value, part.text, part.to);
        else make("span", "", value, typeof part === "string" ? part : clock(part.at));
      }
    }
  });
}
function values(node, title, named) {
  patch(node, [title, named], () => {
    if (!named || !Object.keys(named).length) return;
    make("h3", "", node, title);
    const list = make("ul", "chips", node);
    for (const [name, value] of Object.entries(named)) make("li", "", list, `${name} = ${value}`);
  });
}
function drawings(node, title, data, draw) {
  patch(node, data, () => {
    make("h3", "", node, title);
    draw(make("div", "charts", node));
    if (!find("figure", node)) node.replaceChildren();
  });
}
function trials(made, detail) {
  if (!made.list) {
    made.trials.replaceChildren();
    make("h3", "", made.trials, "Training jobs ");
    made.list = make("div", "trials", made.trials);
    made.moreTrials = more(made.trials, () => { made.wide = (made.wide ?? 50) + 50; refresh(made); });
  }
  arrange(made.list, detail.trials, Date.now() / 1000, made.own ??= new Set());
  const rest = detail.trials_total - detail.trials.length;
  made.moreTrials.hidden = rest <= 0;
  set(find("button", made.moreTrials), `Show more (${rest.toLocaleString()} older)`);
  if (wanted) look();
}

// What is below a row. A request that comes late for a row that was closed or is gone does no harm.
async function refresh(made) {
  if (!made.details.open || made.asked) return;
  made.asked = true;
  const { kind, name } = made.item;
  try {
    if (DETAILED.has(kind)) {
      const query = kind === "tuning" ? `?trials=${made.wide ?? 50}&also=${encodeURIComponent(made.also ?? "")}` : "";
      const detail = await json(`detail/${kind}/${encodeURIComponent(name)}${query}`);
      facts(made, detail.facts);
      if (detail.hyperparameters) values(made.values, "Hyperparameters", detail.hyperparameters);
      if (detail.environment) values(made.values, "Environment", detail.environment);
      if (detail.metrics) drawings(made.drawn, "Metrics", detail.metrics, (node) => detail.metrics.forEach((metric) => drawMetric(node, metric)));
      if (detail.latencies) drawings(made.drawn, "Latencies", detail.latencies, (node) => drawLatencies(node, detail.latencies));
      if (detail.objective) drawings(made.drawn, "Objective", detail.objective, (node) => drawObjective(node, detail.objective, detail.trials));
      if (detail.trials) trials(made, detail);
      if (detail.variants?.length && !detail.asynchronous) attempt(made, detail);
    } else {
      facts(made, kind === "image" ? [["Digest", [made.item.what]]] : []);
      // A list is read anew unless somebody is in it, or has gone beyond its first page.
      const again = made.stale && !made.beyond && !made.files.contains(document.activeElement);
      if (!kind && (made.prefix == null || again)) browse(made, made.prefix ?? "", "");
    }
    if (LOGGED.has(kind)) await tail(made);
  } catch { /* the next look at the state says that localaws does not answer, or that the thing is gone */ }
  made.asked = false;
}

async function tail(made) {
  if (!made.pre) {
    const bar = make("div", "bar", made.log);
    make("h3", "", bar, "Log");
    made.pingsLabel = make("label", "", bar);
    made.pings = make("input", "", made.pingsLabel);
    made.pings.type = "checkbox";
    made.pingsText = make("span", "", made.pingsLabel);
    made.pingsLabel.hidden = true;
    made.pings.addEventListener("change", () => { made.due = 2; refresh(made); });
    made.pre = make("pre", "", made.log, "…");
    made.pre.tabIndex = 0;
    made.pre.setAttribute("role", "region");
    made.pre.setAttribute("aria-label", `Log of ${made.item.name}`);
  }
  const query = made.pings.checked ? "?pings=1" : "";
  const { lines, pings } = await json(`logs/${made.item.kind}/${encodeURIComponent(made.item.name)}${query}`);
  made.pingsLabel.hidden = !pings && !made.pings.checked;
  set(made.pingsText, made.pings.checked ? " with pings" : ` show pings (${pings.toLocaleString()} left out)`);
  const atEnd = made.pre.scrollHeight - made.pre.scrollTop - made.pre.clientHeight < 30;
  set(made.pre, lines.join("\n") || "(no log line yet)");
  if (atEnd) made.pre.scrollTop = made.pre.scrollHeight;
}

// --- S3 ---

async function browse(made, prefix, key, token = "") {
  const name = made.item.name, node = made.files, same = made.prefix === prefix;
  [made.prefix, made.beyond, made.stale] = [prefix, Boolean(token), 0];
  try {
    const query = new URLSearchParams({ bucket: name, prefix, token });
    const page = await json(`objects?${query}`);
    if (made.prefix !== prefix) return;
    if (!token) {
      node.replaceChildren();
      const steps = make("nav", "path", node), parts = prefix.split("/").slice(0, -1);
      steps.setAttribute("aria-label", `Where in ${name}`);
      step(steps, name, () => browse(made, "", ""), parts.length);
      parts.forEach((part, place) => {
        make("span", "", steps, "/");
        step(steps, part || "(no name)", () => browse(made, parts.slice(0, place + 1).join("/") + "/", ""), place < parts.length - 1);
      });
      const files = make("div", "files", node), table = make("table", "", files);
      make("caption", "unseen", table, `What is in ${name}/${prefix}`);
      made.body = make("tbody", "", table);
      if (same && made.look) node.append(made.look);
      else made.look = make("div", "", node);
    }
    for (const below of page.prefixes) entry(made, below.slice(prefix.length), "", "", () => browse(made, below, ""));
    for (const object of page.objects) {
      if (object.key === prefix) continue;
      entry(made, object.key.slice(prefix.length), bytes(object.bytes), hours(object.at), () => peek(made, object.key));
    }
    if (!made.body.children.length) make("td", "", make("tr", "", made.body), "(nothing here)");
    if (page.next) {
      const line = make("tr", "", made.body);
      const button = make("button", "", make("td", "", line), "Show more");
      button.addEventListener("click", () => { line.remove(); browse(made, prefix, "", page.next); });
    }
    if (key) peek(made, key);
  } catch (error) { node.replaceChildren(); make("p", "", node, error.message); }
}
function step(parent, text, action, active) {
  if (!active) { make("b", "", parent, text); return; }
  make("button", "link", parent, text).addEventListener("click", action);
}
function entry(made, name, size, when, action) {
  const line = make("tr", "", made.body), cell = make("td", "", line);
  make("button", "link", cell, name).addEventListener("click", action);
  make("td", "number", line, size);
  make("td", "number", line, when);
}
async function peek(made, key) {
  const node = made.look, query = new URLSearchParams({ bucket: made.item.name, key });
  let object;
  try { object = await json(`object?${query}`); } catch (error) { object = { failed: error.message }; }
  if (node !== made.look) return;  // another prefix is shown by now
  node.replaceChildren();
  const bar = make("div", "bar", node);
  make("h3", "", bar, key.slice(key.lastIndexOf("/") + 1));
  if (object.failed) { make("p", "", node, object.failed); return; }
  const about = [object.type, bytes(object.bytes)];
  if (object.rows) {
    about.push(object.count === null ? `the first ${object.rows.length} rows` : object.count > object.rows.length
      ? `the first ${object.rows.length} of ${object.count} rows` : plural(object.rows.length, "row"));
    if (object.rows.some((cells) => cells.length < object.columns && cells.length >= 20)) about.push(`the first 20 of ${object.columns} columns`);
    const scroll = make("div", "scroll", node), table = make("table", "", scroll);
    region(scroll, `The first rows of ${key}`);
    for (const cells of object.rows) {
      const line = make("tr", "", table);
      for (const cell of cells) make("td", "", line, cell);
    }
  } else if (object.text != null) {
    if (!object.whole) about.push("its beginning");
    const text = make("pre", "", node, object.text || "(empty)");
    region(text, `The beginning of ${key}`);
  } else {
    about.push("no text: nothing to show");
  }
  make("small", "", bar, about.filter(Boolean).join(" · "));
}
function region(node, label) {
  node.tabIndex = 0;
  node.setAttribute("role", "region");
  node.setAttribute("aria-label", label);
}

// --- Try an endpoint ---

function attempt(made, { variants, example }) {
  if (made.tried === variants.join()) return;
  // After an update of the endpoint what was typed is there again.
  const typed = made.text && made.text.value !== made.first ? { type: made.type.value, text: made.text.value } : null;
  made.first = example?.text ?? "";
  made.tried = variants.join();
  made.form.replaceChildren();
  const form = make("form", "", made.form);
  make("h3", "", form, "Try this endpoint");
  const fields = make("div", "fields", form);
  const field = (text, tag, parent) => make(tag, "", make("label", "", parent, text));
  const type = made.type = field("Content type", "input", fields);
  type.value = typed?.type ?? example?.type ?? "text/csv";
  type.required = true;
  const variant = variants.length > 1 ? field("Variant", "select", fields) : null;
  if (variant) for (const name of ["by weight", ...variants]) make("option", "", variant, name).value = name === "by weight" ? "" : name;
  const file = field("or a file as the body", "input", fields);
  file.type = "file";
  const text = made.text = field(example?.base64 ? `Body: left empty, it is the algorithm's example, ${example.name}` : "Body", "textarea", form);
  text.spellcheck = false;
  text.rows = Math.min(6, Math.max(3, made.first.split("\n").length));
  text.value = typed?.text ?? made.first;
  text.placeholder = "what the container takes, as in: 5.1,3.5,1.4,0.2";
  file.addEventListener("change", () => { if (file.files[0]?.type) type.value = file.files[0].type; });
  const button = make("button", "main", make("div", "", form), "Invoke");
  const output = make("output", "", form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    let body = file.files[0] ?? text.value;
    if (body === "" && example?.base64) body = Uint8Array.from(atob(example.base64), (letter) => letter.charCodeAt(0));
    const query = variant?.value ? `?variant=${encodeURIComponent(variant.value)}` : "";
    try {
      const answer = await fetch(`invoke/${encodeURIComponent(made.item.name)}${query}`, { method: "POST", body, headers: { "Content-Type": type.value } });
      answered(output, await answer.json());
    } catch (error) { answered(output, { status: 0, message: error.message }); }
    button.disabled = false;
    made.due = 4;  // its latencies and its log come a second later
  });
}
function answered(output, said) {
  output.replaceChildren();
  const line = make("p", "", output), good = said.status >= 200 && said.status < 300;
  make("span", "status " + (good ? "good" : "bad"), line, said.container ? `${said.status}, the container's ${said.container}` : String(said.status || "no answer"));
  if (said.milliseconds != null) make("b", "", line, `${Number(said.milliseconds.toPrecision(3))} ms`);
  make("small", "", line, [said.code, said.type, said.bytes != null && bytes(said.bytes), said.variant && `variant ${said.variant}`].filter(Boolean).join(" · "));
  if (said.picture) {
    const picture = make("img", "", output);
    picture.alt = "The picture that the endpoint answered";
    picture.src = said.picture;
    return;
  }
  const text = make("pre", "", output, said.text ?? said.message ?? "(no text)");
  region(text, good ? "The endpoint's answer" : "The error as it is");
}

// --- All of it ---

function more(parent, action) {
  const line = make("p", "more", parent);
  make("button", "", line, "Show more").addEventListener("click", action);
  line.hidden = true;
  return line;
}
// Rows for `items` in their order, each the one that it had before.
function arrange(section, items, now, own) {
  const seen = new Set();
  items.forEach((item, place) => {
    const key = `${item.kind ?? "bucket"}/${item.name}${item.kind === "image" ? "@" + item.what : ""}`;
    seen.add(key);
    let made = rows.get(key);
    if (made && (made.item.created !== item.created || made.details.parentElement !== section)) { made.details.remove(); made = null; }
    made ??= row(section, key, item);
    fill(made, item, now);
    if (section.children[place] !== made.details) section.insertBefore(made.details, section.children[place] ?? null);
  });
  for (const key of own) if (!seen.has(key)) { if (rows.get(key)?.details.parentElement === section) { rows.get(key).details.remove(); rows.delete(key); } }
  own.clear();
  for (const key of seen) own.add(key);
}
const owned = Object.fromEntries(Object.keys(NONE).map((kind) => [kind, new Set()]));
const buttons = {};

function show(state) {
  set(find("#about"), `${state.url} · ${state.region} · account ${state.account} · engine: ${state.engine}`);
  for (const kind of Object.keys(NONE)) {
    const section = find(`#${kind} > div`), total = state.totals[kind], listed = state[kind].length;
    const trial = kind === "jobs" && state.totals.trials ? `, ${state.totals.trials.toLocaleString()} of them in tuning jobs` : "";
    set(find(`#${kind} h2 span`), total ? total.toLocaleString() + trial : "");
    arrange(section, state[kind], state.now, owned[kind]);
    const none = find("p.none", section);
    if (!listed && !none) section.prepend(make("p", "none", null, NONE[kind]));
    if (listed) none?.remove();
    extend(kind, section, state.top[kind] - listed);
  }
  calls(state);
  progress(state.progress);
  for (const made of rows.values()) {
    if (!made.details.open) continue;
    if (busy(made.item.status) || made.item.kind === "endpoint" || made.due > 0) { made.due -= 1; refresh(made); }
  }
  const sums = {
    "jobs running": state.totals.running.toLocaleString(),
    "endpoints in service": state.totals.in_service.toLocaleString(),
    "so far, if this were AWS": money(state.totals.cost),
    "an hour, if this were AWS": money(state.totals.hourly),
  };
  const box = find("#sums");
  Object.entries(sums).forEach(([label, value], place) => {
    const card = box.children[place] ?? make("div", "", box);
    set(card.children[0] ?? make("b", "", card), value);
    set(card.children[1] ?? make("small", "", card), label);
  });
  set(find("footer"), `Here it is free. The dollars are instance time at the list prices of us-west-2 (${state.prices}), `
    + "without storage, requests, spot discounts and what was deleted; an instance type without a known price counts nothing.");
}
function extend(kind, section, rest) {
  buttons[kind] ??= more(section, () => { shown[kind] += 50; look(); });
  if (section.lastChild !== buttons[kind]) section.append(buttons[kind]);
  buttons[kind].hidden = rest <= 0;
  set(find("button", buttons[kind]), `Show more (${rest.toLocaleString()} older)`);
}
function calls(state) {
  const section = find("#calls > div");
  set(find("#calls h2 span"), state.totals.calls ? `${state.totals.calls.toLocaleString()} since the start, the last ones first` : "");
  section.table ??= make("div", "scroll", section);
  patch(section.table, state.calls, (list) => {
    if (!list.length) { make("p", "none", section.table, "No call yet. What boto3, the SDK or aws asks appears here."); return; }
    region(section.table, "The last calls");
    const table = make("table", "", section.table), head = make("tr", "", make("thead", "", table)), body = make("tbody", "", table);
    for (const title of ["When", "Service", "Operation", "Who", "By", "Answer", "Times"]) make("th", "", head, title).scope = "col";
    for (const call of list) {
      const line = make("tr", "", body);
      make("td", "", line, hours(call.at));
      for (const text of [call.service, call.operation, call.who, call.agent]) make("td", "", line, text);
      make("td", call.status >= 400 ? "bad" : "", line, [call.status, call.code].filter(Boolean).join(" "));
      make("td", "", line, call.count > 1 ? `${call.count.toLocaleString()} ×` : "");
    }
  });
  extend("calls", section, state.top.calls - state.calls.length);
}
function progress(list) {
  const node = find("#progress");
  patch(node, list, () => {
    for (const { name, labs, next } of list) {
      const box = make("div", "", node), following = labs.find((lab) => lab.lab === next);
      const done = labs.filter((lab) => lab.checked).length;
      make("h2", "", box, "Your labs ").append(make("small", "", null,
        `${list.length > 1 ? name + ", " : ""}${done} of ${labs.length} checked${following ? `, next: ${following.title}` : ""}`));
      const row = make("ol", "", box);
      for (const lab of labs) {
        const item = make("li", lab.lab === next ? "next" : "", row);
        if (lab.lab === next) item.setAttribute("aria-current", "step");
        make("span", "", item, lab.title);
        mark(item, lab.checked, "✓", "check passed", "not checked yet");
        mark(item, lab.your_turn, "✎", "exercise done", "exercise to do");
      }
    }
  });
}
function mark(item, done, sign, yes, no) {
  const node = make("i", done ? "done" : "", item);
  make("span", "", node, done ? sign : "·").setAttribute("aria-hidden", "true");
  make("span", "unseen", node, done ? yes : no);
  node.title = done ? yes : no;
}

async function once() {
  const lost = find("#lost"), asked = wanted, query = new URLSearchParams(shown);
  const also = asked ?? pinned;
  if (also) query.set("also", `${also.kind}/${also.name}`);
  try {
    const state = await json(`state?${query}`);
    show(state);
    lost.hidden = true;
    if (asked && asked === wanted) {
      const at = state.target && place(state.target, asked);
      if (at) arrive(at);
      else {
        wanted = null;
        const told = find("#told");
        set(told, `There is no ${asked.kind} ${asked.name} here.`);
        told.hidden = false;
      }
    }
  } catch (error) {
    set(lost, `localaws does not answer (${error.message}). Start it: python -m localaws up. What is below is from before.`);
    lost.hidden = false;
  }
}
// Where the page has what the server has found: an image's row has its digest in its key.
function place(target, asked) {
  const [kind, name] = target.at(-1);
  if (kind === "image") {
    const key = [...rows.keys()].find((one) => one.startsWith("image/") && rows.get(one).item.repository === name);
    return key ? [["image", key.slice("image/".length)]] : null;
  }
  return kind !== "bucket" || rows.has(`bucket/${name}`) ? target : null;
}
// One look at a time; whoever asks meanwhile gets another one after it.
function look() {
  if (looking) { again = 1; return; }
  clearTimeout(look.next);
  looking = once().finally(() => {
    looking = null;
    look.next = setTimeout(look, again ? 0 : document.hidden ? 5000 : 1000);
    again = 0;
  });
}
addEventListener("hashchange", go);
wanted = read(location.hash);
look();
