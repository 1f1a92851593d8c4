// Runs axe-core over every page that a person sees: light and dark, wide and narrow. A finding fails.
import { readFileSync } from "node:fs";
import { check, looked, opened, require, withBrowser } from "./common.mjs";

const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const findings = async (page) => {
  // Asked of the browser itself, so that the page's policy of scripts stays as it is.
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })");
  check(passes.length > 5, "next to nothing was looked at");
  return violations.map(({ id, help, nodes }) => ({
    id,
    help,
    nodes: nodes.slice(0, 5).map((node) => node.target.join(" ") + ": " + node.failureSummary),
  }));
};

// A dark screen has a dark report, and paper a white one.
const paper = async (page) => {
  const look = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('main')).backgroundColor, getComputedStyle(document.querySelector('h1')).color].join(' ')";
  const light = /^rgb\((\d+), (\d+), (\d+)\)/;
  const isLight = (colour) => light.exec(colour).slice(1).every((part) => Number(part) > 200);
  const screen = await page.evaluate(look);
  check(!isLight(screen), "a dark screen has a page of", screen);
  await page.emulateMedia({ media: "print" });
  const print = await page.evaluate(look);
  check(print.startsWith("rgb(255, 255, 255) rgb(255, 255, 255) ") && !isLight(print.split(") ")[2] + ")"), "paper has", print);
};

await withBrowser(async () => {
  const all = [];
  for (const [name, address] of Object.entries(looked.pages)) {
    for (const dark of [false, true]) {
      for (const width of [1280, 390]) {
        await opened(address, { width, dark }, async (page) => {
          if (name === "page" && width === 1280) {
            // What is behind a click is looked at as well.
            await page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })");
          }
          const found = await findings(page);
          console.log(`${name}, ${dark ? "dark" : "light"}, ${width}: ${found.length} findings`);
          if (found.length) all.push({ name, dark, width, found });
          if (dark && ["report", "rapport"].includes(name)) await paper(page);
          if (name !== "page") return;
          await page.locator("a.event").first().click();
          await page.locator("dialog[open] section").waitFor();
          const inside = await findings(page);
          if (inside.length) all.push({ name: "dialog", dark, width, found: inside });
        });
      }
    }
  }
  check(all.length === 0, JSON.stringify(all, null, 1));
});
