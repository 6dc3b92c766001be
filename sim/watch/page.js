"use strict";
// Draws what the stream says. Every text goes into the page as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const LABELS = ["client", "status", "device", "link", "seen", "samples", "batches", "refused", "answers in"];
const SLOW_S = 1; // nobody is called slow who has been waited for less long
const PRESENCE = ["joined", "back", "lost"];
const place = (id) => document.getElementById(id);
let seen = null; // the last content
let alive = false;

function element(kind, text, name) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function shape(kind, attributes, text) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(node, text) { // leave what has not changed: selections and the scroll position stay
  if (node.textContent !== text) node.textContent = text;
}

function bytes(size) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (size < 1000) return unit === "B" ? `${size} B` : `${size.toFixed(1)} ${unit}`;
    size /= 1000;
  }
  return `${size.toFixed(1)} TB`;
}

function seconds(time) {
  if (time < 0.9995) return `${Math.round(time * 1000)} ms`;
  if (time < 120) return `${time < 10 ? time.toFixed(1) : Math.round(time)} s`;
  if (time < 7200) return `${Math.round(time / 60)} min`;
  return time < 172800 ? `${Math.round(time / 3600)} h` : `${Math.round(time / 86400)} d`;
}

const since = (time) => Math.max(0, Date.now() / 1000 - time);
const ago = (time) => { const past = Math.floor(since(time)); return past < 2 ? "now" : past < 120 ? `${past} s ago` : `${seconds(past)} ago`; };
const figure = (value) => (Math.abs(value) < 1000 ? value.toPrecision(3) : Math.round(value).toString());
const total = (sizes, end) =>
  Object.entries(sizes).reduce((sum, [name, size]) => sum + (name.endsWith(end) ? size : 0), 0);

function drawHead({ name, connected, state, run }) {
  document.title = `${name} - fedlite watch`;
  say(place("name"), name);
  const phase = !alive || !connected ? "lost" : state ? state.phase : "unknown";
  const badge = place("phase");
  say(badge, { lost: "not connected", unknown: "no such run yet" }[phase] ?? phase);
  badge.className = `badge ${phase}`;
  const words = [];
  if (!alive) words.push("fedlite watch does not answer; what is shown is old.");
  else if (!connected) words.push("No connection to the broker; what is shown is old.");
  else if (!state) words.push("The broker knows nothing of this run; waiting for its server.");
  else if (!run) words.push("The server publishes no more than its state.");
  if (phase === "away") words.push("The server has lost its connection, or has died; devices wait for it.");
  if (run && run.reason) words.push(run.reason);
  say(place("said"), words.join(" "));
  const bar = place("progress");
  bar.max = run ? Math.max(1, run.rounds) : 1;
  bar.value = run ? run.round : 0;
  if (!run) return place("figures").replaceChildren();
  const figures = [
    ["round", `${run.round} of ${run.rounds}`],
    [run.metric_name, run.metric === null ? "–" : figure(run.metric)],
    ["best", run.best === null ? "–" : figure(run.best)],
    ["loss", run.loss === null ? "–" : figure(run.loss)],
    ["online", `${run.online} of ${run.clients}`],
    ["client steps", String(run.steps)],
    ["training", seconds(run.elapsed_s)],
    ["up", bytes(total(run.wire_bytes, "_up"))],
    ["down", bytes(total(run.wire_bytes, "_down"))],
    ["refused", String(run.rejected)],
    ["late", String(run.late)],
    ["waiting for", run.slowest && phase === "running" && since(run.slowest.since) >= SLOW_S
      ? `${run.slowest.client}, ${seconds(since(run.slowest.since))}: ${run.slowest.why}` : "nobody", "words"],
  ];
  const list = place("figures");
  while (list.children.length < figures.length) {
    const pair = element("div");
    pair.append(element("dt"), element("dd"));
    list.append(pair);
  }
  figures.forEach(([title, value, kind], number) => {
    const [dt, dd] = list.children[number].children;
    say(dt, title);
    say(dd, value);
    dd.className = kind ?? "";
  });
}

function drawCurves(id, curves, format, label) {
  const svg = place(id);
  const width = Math.max(200, svg.clientWidth), height = 190;
  const box = { left: 56, right: width - 12, top: 10, bottom: height - 24 };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", label);
  svg.replaceChildren();
  const points = curves.flatMap((curve) => curve.points);
  if (!points.length) {
    svg.append(shape("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing yet"));
    return;
  }
  const last = Math.max(...points.map(([x]) => x), 1);
  let low = Math.min(0, ...points.map(([, y]) => y)), high = Math.max(...points.map(([, y]) => y));
  if (high <= low) high = low + 1;
  const x = (value) => box.left + (value / last) * (box.right - box.left);
  const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
  for (const part of [0, 0.5, 1]) {
    const value = low + part * (high - low);
    svg.append(shape("line", { class: "axis", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { x: box.left - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  svg.append(shape("text", { x: box.left, y: height - 6 }, "round 0"));
  svg.append(shape("text", { x: box.right, y: height - 6, "text-anchor": "end" }, `round ${last}`));
  for (const { name, points: of } of curves) {
    const path = of.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ");
    svg.append(shape("polyline", { class: `curve ${name}`, points: path }));
    if (of.length === 1) svg.append(shape("circle", { cx: x(of[0][0]), cy: y(of[0][1]), r: 3 }));
  }
}

function drawHistory({ run, history }) {
  const name = run ? run.metric_name : "Metric";
  say(place("metric-title"), `${name} so far`);
  drawCurves("metric", [{ name: "up", points: history ? history.metric : [] }], figure, `${name} by round`);
  const traffic = history ? history.traffic : [];
  drawCurves("bytes", [
    { name: "up", points: traffic.map(([number, , up]) => [number, up]) },
    { name: "down", points: traffic.map(([number, , , down]) => [number, down]) },
  ], bytes, "bytes up and down by round");
}

function drawRound({ connected, state, round }) {
  const place_ = place("timeline");
  const members = round ? round.members : [];
  const now = round ? since(round.began) : 0;
  say(place("round-title"), round && round.round ? `Round ${round.round} under way` : "No round yet");
  if (!members.length) {
    place_.replaceChildren(element("p", "Nobody is at work.", "hint"));
    return;
  }
  const isRunning = alive && connected && state && state.phase === "running";
  const first = Math.min(0, ...members.map((member) => member.at_s[0] ?? 0));
  const latest = Math.max(...members.flatMap((member) => member.at_s), 0.05);
  const end = isRunning ? Math.max(now, latest) : latest;
  const x = (time) => ((time - first) / (end - first)) * 1000;
  const lanes = members.map((member) => {
    const lane = element("div", undefined, "lane");
    const svg = shape("svg", { viewBox: "0 0 1000 14", preserveAspectRatio: "none" });
    member.at_s.forEach((from, number) => {
      const to = member.at_s[number + 1] ?? end;
      const isLast = number + 1 === member.at_s.length;
      const kind = isLast ? member.turn : number % 2 ? "tail" : "client";
      svg.append(shape("rect", { class: kind, x: x(from), y: 1, height: 12, width: Math.max(2, x(to) - x(from)) }));
    });
    const turn = { client: "device's turn", tail: "server's turn", done: "done" }[member.turn];
    const step = round.steps > 1 ? `step ${Math.min(member.step + 1, round.steps)} of ${round.steps}, ` : "";
    const late = member.round < round.round ? `of round ${member.round}, ` : "";
    lane.append(element("span", member.client), svg, element("span", late + step + turn));
    return lane;
  });
  if (round.more) lanes.push(element("p", `and ${round.more} more`, "hint"));
  lanes.push(element("p", `from ${first.toFixed(1)} s to ${end.toFixed(1)} s after the round began`, "hint"));
  place_.replaceChildren(...lanes);
}

function drawFleet({ clients, run }) {
  const wanted = place("find").value.trim().toLowerCase(), status = place("status").value;
  const rows = clients
    .filter((line) => (!status || line.status === status)
      && (!wanted || [line.client, line.device, line.link].some((text) => text.toLowerCase().includes(wanted))))
    .sort((a, b) => (b.status === "offline") - (a.status === "offline")); // otherwise as in the fleet
  const hidden = run ? Math.max(0, run.clients - clients.length) : 0;
  say(place("count"), `${rows.length} of ${clients.length} shown${hidden ? `; ${hidden} more are not published` : ""}`);
  const body = place("fleet").tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  while (body.rows.length < rows.length) {
    const row = body.insertRow();
    for (const label of LABELS) row.insertCell().dataset.label = label;
  }
  rows.forEach((line, number) => {
    const cells = body.rows[number].cells;
    [line.client, line.status, line.device, line.link, line.seen === null ? "" : ago(line.seen),
      line.samples === null ? "" : String(line.samples), String(line.batches), line.refused ? String(line.refused) : "",
      line.answer_s === null ? "" : seconds(line.answer_s)].forEach((text, at) => say(cells[at], text));
    if (cells[1].className !== line.status) cells[1].className = line.status;
  });
}

function drawEvents({ events }) {
  const rows = [...events].reverse().map((event) => {
    const row = element("li", undefined, event.kind);
    const time = element("time", new Date(event.at * 1000).toLocaleTimeString());
    const who = event.client ? event.client + (PRESENCE.includes(event.kind) ? "" : ":") : "the run is";
    row.append(time, `${who} ${event.what}`);
    return row;
  });
  place("events").replaceChildren(...(rows.length ? rows : [element("li", "Nothing yet.", "hint")]));
}

function draw() {
  if (!seen) return;
  for (const part of [drawHead, drawRound, drawFleet]) part(seen);
}

function drawAll() {
  draw();
  if (seen) for (const part of [drawHistory, drawEvents]) part(seen);
}

const stream = new EventSource("/events");
stream.onmessage = (message) => { alive = true; seen = JSON.parse(message.data); drawAll(); };
stream.onerror = () => { alive = false; draw(); };
place("find").addEventListener("input", draw);
place("status").addEventListener("change", draw);
addEventListener("resize", drawAll);
setInterval(draw, 1000); // times go on
