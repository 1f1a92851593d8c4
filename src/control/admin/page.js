// Moves what moves. The markup is the server's, asked for anew: nothing is made of a text here.
"use strict";
(() => {
  const EVERY = 5000;
  const SECONDS = 60;
  const SVG = "http://www.w3.org/2000/svg";
  const link = document.getElementById("link");
  const detail = document.getElementById("detail");
  document.documentElement.classList.add("js");

  // What came of a click stands long enough to be read; what comes each second waits for it.
  let told = 0;
  const say = (text) => { if (link && Date.now() >= told && link.textContent !== text) link.textContent = text; };
  const tell = (text) => { told = 0; say(text); told = Date.now() + 6000; };

  const fetched = async (path, options) => {
    const answer = await fetch(path, { cache: "no-store", ...options });
    return { ok: answer.ok, text: await answer.text() };
  };

  // The markup of the server in a document of its own, in which no script runs.
  const parsed = (text) => new DOMParser().parseFromString(text, "text/html");

  // Puts something else into a part. What had the keyboard has it again where it is still there, and
  // else what it was in: whoever presses Enter meets no other row.
  const replace = (part, nodes) => {
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    const link = active && active.getAttribute("href");
    const kill = active && active.dataset.kill;
    const scroll = part.querySelector(".scroll");
    const [top, left] = scroll ? [scroll.scrollTop, scroll.scrollLeft] : [0, 0];
    part.replaceChildren(...nodes);
    const again = part.querySelector(".scroll");
    if (again) { again.scrollTop = top; again.scrollLeft = left; }
    if (!active) return;
    const is = (one) => (kill !== undefined ? one.dataset.kill === kill : link !== null && one.getAttribute("href") === link);
    const same = [...part.querySelectorAll("a, button")].find(is) || again;
    if (same) same.focus({ preventScroll: true });
  };

  const heat = (of, most) =>
    of === 0 || most === 0 ? 0 : Math.min(5, Math.max(1, Math.ceil(5 * Math.log1p(of) / Math.log1p(most))));

  const colour = () => {
    const list = document.getElementById("countries");
    if (!list) return;
    const permit = new Set((list.dataset.permit || "").split(" "));
    const all = [...list.querySelectorAll("[data-code]")].map((one) => [one.dataset.code, Number(one.dataset.count)]);
    const most = Math.max(0, ...all.map(([, of]) => of));
    for (const [code, of] of all) {
      const shape = document.getElementById("c-" + code);
      if (shape) shape.setAttribute("class", (permit.has(code) ? "in" : "out") + " h" + heat(of, most));
    }
  };

  const refresh = async () => {
    if (document.hidden) return;
    const by = new URLSearchParams(location.search).get("by");
    try {
      const { ok, text } = await fetched("/?parts=1" + (by ? "&by=" + encodeURIComponent(by) : ""));
      if (!ok) { say("The gateway does not answer: these numbers are old."); return; }
      const fresh = parsed(text);
      document.title = fresh.title;
      for (const part of document.querySelectorAll("[data-part]")) {
        const other = fresh.getElementById(part.id);
        if (!other) continue;
        replace(part, [...other.childNodes].map((node) => document.adoptNode(node)));
        for (const name of Object.keys(other.dataset)) part.dataset[name] = other.dataset[name];
      }
      colour();
    } catch {
      say("The gateway does not answer: these numbers are old.");
    }
  };

  const bytes = (count) => {
    const units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let unit = 0;
    while (count >= 999.5 && unit + 1 < units.length) { count /= 1000; unit += 1; }
    return count.toFixed(unit > 0 && count < 99.95 ? 1 : 0) + " " + units[unit];
  };

  const seconds = [];
  let totals = null;

  const draw = () => {
    const chart = document.getElementById("chart");
    if (!chart) return;
    const most = Math.max(1, ...seconds.map(([a, l, b]) => a + l + b));
    const bars = [];
    seconds.forEach((second, at) => {
      let y = 80;
      ["allow", "log", "block"].forEach((kind, which) => {
        const height = second[which] * 78 / most;
        y -= height;
        if (height === 0) return;
        const bar = document.createElementNS(SVG, "rect");
        const place = { x: (SECONDS - seconds.length + at) * 10, y, width: 8, height, class: kind };
        for (const name of Object.keys(place)) bar.setAttribute(name, place[name]);
        bars.push(bar);
      });
    });
    chart.replaceChildren(...bars);
  };

  const tick = (data) => {
    const now = {
      allow: data.now.allow.toFixed(1), log: data.now.log.toFixed(1), block: data.now.block.toFixed(1),
      live: String(data.live), up: bytes(data.now.bytes_up), down: bytes(data.now.bytes_down),
    };
    for (const tile of document.querySelectorAll("[data-now]")) tile.textContent = now[tile.dataset.now];
    const sums = [data.totals.allow, data.totals.log, data.totals.block];
    if (totals) {
      seconds.push(sums.map((sum, at) => Math.max(0, sum - totals[at])));
      while (seconds.length > SECONDS) seconds.shift();
      draw();
    }
    totals = sums;
    say("Live");
  };

  const follow = () => {
    const stream = new EventSource("/api/v1/stream");
    stream.addEventListener("tick", (event) => tick(JSON.parse(event.data)));
    let soon = 0;
    // A refusal shows at once, and a flood of them shows twice a second.
    stream.addEventListener("decision", () => {
      if (!soon) soon = setTimeout(() => { soon = 0; refresh(); }, 500);
    });
    stream.addEventListener("error", () => say("Not live: asked for anew every five seconds."));
    addEventListener("pagehide", () => stream.close());
  };

  const open = (text) => {
    const section = parsed(text).querySelector("main section");
    if (!section) return;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "close";
    close.textContent = "Close";
    close.addEventListener("click", () => detail.close());
    detail.replaceChildren(close, document.adoptNode(section));
    detail.showModal();
  };

  document.addEventListener("click", async (event) => {
    const target = event.target.closest("a.event, [data-kill]");
    if (!target || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (target.dataset.kill !== undefined) {
      // A button that is disabled loses the keyboard.
      if (target.ariaDisabled === "true" || !confirm(target.getAttribute("aria-label") + "?")) return;
      target.ariaDisabled = "true";
      const path = "/api/v1/connections/" + encodeURIComponent(target.dataset.kill);
      try {
        const { text } = await fetched(path, { method: "DELETE", headers: { "X-Schengate-Request": "1" } });
        const answer = JSON.parse(text);
        tell(answer.killed ? "The connection is ended." : answer.detail);
      } catch {
        tell("The gateway does not answer: nothing is ended.");
        target.ariaDisabled = "false";
      }
      refresh();
      return;
    }
    if (!detail || !detail.showModal) return;
    event.preventDefault();
    open((await fetched(target.getAttribute("href"))).text);
  });

  const form = document.querySelector("#ask form");
  if (form) form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const query = new URLSearchParams(new FormData(form));
    query.set("parts", "1");
    const { text } = await fetched("/?" + query);
    const answer = parsed(text).getElementById("answer");
    if (answer) document.getElementById("answer").replaceChildren(...[...answer.childNodes].map((node) => document.adoptNode(node)));
  });

  if (document.getElementById("tiles")) {
    fetched("/api/v1/verdicts").then(({ ok, text }) => {
      if (ok && seconds.length === 0) seconds.push(...JSON.parse(text).seconds.slice(-SECONDS));
    }).catch(() => {});
    setInterval(refresh, EVERY);
    if (window.EventSource) follow();
  }
})();
