// A real Chromium, driven over a pipe, and what the scripts beside this one ask of it.
import { createRequire } from "node:module";

// The folder into which `npm ci` put the packages, and what is to be looked at, as JSON.
const [, , tools, plan] = process.argv;
export const require = createRequire(tools + "/");
export const looked = JSON.parse(plan);

const { chromium } = require("playwright-core");

export const check = (holds, ...what) => {
  if (!holds) throw new Error(what.map((one) => (typeof one === "string" ? one : JSON.stringify(one))).join(" "));
};

// Opens a page in a window of its own, has `use` look at it, and closes it.
export const opened = async (address, options, use) => {
  const { width = 1280, height = 900, dark = false, script = true } = options;
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: dark ? "dark" : "light",
    // Where something has focus is where it will be, not where it is on its way.
    reducedMotion: "reduce",
    javaScriptEnabled: script,
  });
  try {
    const page = await context.newPage();
    // A machine at work elsewhere is no fault of the page.
    page.setDefaultTimeout(120_000);
    const faults = [];
    page.on("pageerror", (fault) => faults.push(String(fault)));
    // The event stream of the page never ends: what is waited for is its document.
    await page.goto(address, { waitUntil: "domcontentloaded" });
    await use(page);
    check(faults.length === 0, address, faults);
  } finally {
    await context.close();
  }
};

let browser;

// Runs `use` beside a browser. What fails ends this process with its reason.
export const withBrowser = async (use) => {
  browser = await chromium.launch({ executablePath: looked.browser, args: ["--no-sandbox"] });
  try {
    await use();
  } finally {
    await browser.close();
  }
};
