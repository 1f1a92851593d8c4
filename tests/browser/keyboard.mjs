// Walks the pages with nothing but a keyboard.
import { check, looked, opened, withBrowser } from "./common.mjs";

// Numbers everything that takes the keyboard in the order of the document, and tells what it is.
const number = (page) =>
  page.evaluate(() => {
    const all = document.querySelectorAll("a[href], area[href], button, input, select, textarea, summary, [tabindex]");
    const takes = (one) => one.checkVisibility({ visibilityProperty: true }) && !one.disabled && one.tabIndex >= 0;
    return [...all].filter(takes).map((one, at) => {
      one.dataset.walk = at;
      return one.outerHTML.slice(0, 120);
    });
  });

// Where the keyboard is, and whether a person can see that.
const focus = (page) =>
  page.evaluate(() => {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    // The luminance of a colour (WCAG 2.2, relative luminance).
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const luminance = (colour) => {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data]
        .map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (from) => {
      for (let at = from; at; at = at.parentElement) {
        const colour = getComputedStyle(at).backgroundColor;
        if (!/^rgba\(.*, 0\)$|^transparent$/.test(colour)) return colour;
      }
      return "white";
    };
    const [a, b] = [style.outlineColor, ground(one.parentElement)].map(luminance);
    const box = one.getBoundingClientRect();
    // A link of two lines has no middle of its own: its first line has.
    const line = one.getClientRects()[0] || box;
    const x = Math.min(Math.max(line.left + line.width / 2, 1), innerWidth - 1);
    const y = Math.min(Math.max(line.top + Math.min(line.height, 40) / 2, 1), innerHeight - 1);
    const hit = document.elementFromPoint(x, y);
    return {
      at: Number(one.dataset.walk ?? -1),
      what: one.outerHTML.slice(0, 120),
      ring: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
      contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
      isInView: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
      isOnTop: one.contains(hit) || (hit?.contains(one) ?? false),
      hit: hit?.outerHTML.slice(0, 80),
    };
  });

const isSeen = (now, where) => {
  check(now.ring >= 2, where, "shows no ring:", now);
  check(now.contrast >= 3, where, "shows a ring that nobody sees:", now);
  check(now.isInView && now.isOnTop, where, "has focus behind something else, or outside of the window:", now);
};

// From the top to the end and back: everything is reached, in the order of the document.
const walk = async (page, where) => {
  const all = await number(page);
  check(all.length > 0, where, "has nothing to reach");
  for (let at = 0; at < all.length; at += 1) {
    await page.keyboard.press("Tab");
    const now = await focus(page);
    check(now.at === at, `${where}: Tab ${at + 1} should reach`, all[at], "and reaches", now);
    isSeen(now, where);
  }
  for (let at = all.length - 2; at >= 0; at -= 1) {
    await page.keyboard.press("Shift+Tab");
    const now = await focus(page);
    check(now.at === at, `${where}: back at ${at} should be`, all[at], "and is", now);
    isSeen(now, where);
  }
  console.log(`${where}: ${all.length} controls, there and back`);
};

// Presses Tab until the keyboard is on one of these.
const reach = async (page, selector) => {
  for (let times = 0; times < 500; times += 1) {
    if (await page.evaluate((it) => document.activeElement.matches(it), selector)) return;
    await page.keyboard.press("Tab");
  }
  check(false, "the keyboard never reaches", selector);
};

// Waits until something holds of the page. The browser is asked from outside: the page's own policy lets
// nothing be made of a text.
const is = async (page, what) => {
  for (let times = 0; times < 600; times += 1) {
    if (await page.evaluate(what)) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  check(false, "never:", what);
};

// The parts of the page are drawn anew while it is looked at; during a walk they are held.
const PARTS = "**/?parts=1*";

const page = async (page) => {
  await is(page, "document.documentElement.classList.contains('js')");
  await page.route(PARTS, (route) => route.abort());
  await walk(page, "the page");
  await page.unroute(PARTS);
};

const skip = async (page) => {
  await page.keyboard.press("Tab");
  check(await page.evaluate("document.activeElement.matches('.skip')"), "the first is not the way to the content");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  check(await page.evaluate("document.querySelector('main').contains(document.activeElement)"), "the way to the content leads elsewhere");
};

const ask = async (page) => {
  await reach(page, "input[name=host]");
  await page.keyboard.type(looked.refused);
  await page.keyboard.press("Enter");
  await is(page, "document.querySelector('#answer').textContent.includes('No address can make')");
  await reach(page, "input[name=to]");
  await page.keyboard.type(looked.permitted);
  await reach(page, "#ask button");
  await page.keyboard.press("Space");
  await is(page, "document.querySelector('#answer .explained') !== null");
  check((await page.locator("#answer").getAttribute("aria-live")) === "polite", "an answer is not read out");
};

const detail = async (page) => {
  await reach(page, "a.event");
  const href = await page.evaluate("document.activeElement.getAttribute('href')");
  await page.keyboard.press("Enter");
  await is(page, "document.querySelector('dialog').open");
  for (let times = 0; times < 5; times += 1) {
    // Between the last and the first of a dialog stands the browser itself.
    check(
      await page.evaluate("document.activeElement === document.body || document.querySelector('dialog').contains(document.activeElement)"),
      "the keyboard left an open dialog",
    );
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Escape");
  await is(page, "!document.querySelector('dialog').open");
  check(await page.evaluate((it) => document.activeElement.getAttribute("href") === it, href), "focus does not come back to", href);
};

// What has focus keeps it while the page is drawn anew, and what it is in does not grow old.
const anew = async (page) => {
  for (const selector of ["#refused .scroll", "#refused a.event", "#live button[data-kill]"]) {
    await reach(page, selector);
    const key = () => [document.activeElement.className, document.activeElement.getAttribute("href"), document.activeElement.dataset.kill].join();
    const before = await page.evaluate(key);
    await page.evaluate("document.activeElement.closest('[data-part]').firstElementChild.dataset.old = '1'");
    await is(page, "document.querySelector('[data-old]') === null");
    const after = await page.evaluate(key);
    check(before === after, selector, "lost focus to", after);
  }
};

const end = async (page) => {
  await reach(page, "button[data-kill]");
  const id = await page.evaluate("document.activeElement.dataset.kill");
  page.once("dialog", (dialog) => dialog.dismiss());
  await page.keyboard.press("Enter");
  check(await page.evaluate((it) => document.activeElement.dataset.kill === it, id), "a no moves the keyboard");
  page.once("dialog", (dialog) => dialog.accept());
  await page.keyboard.press("Enter");
  await is(page, "document.querySelector('#link').textContent === 'The connection is ended.'");
  await is(page, `document.querySelector('[data-kill="${id}"]') === null`);
};

const fold = async (page) => {
  await reach(page, "#policy summary");
  const isOpen = "document.activeElement.parentElement.open";
  const before = await page.evaluate(isOpen);
  await page.keyboard.press("Enter");
  check((await page.evaluate(isOpen)) !== before, "what is folded does not open");
};

const tabs = async (page) => {
  await reach(page, "#top a[href*='by=country']");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/?by=country*");
  check((await page.locator("#top [aria-current]").textContent()) === "by country", "another tab");
};

await withBrowser(async () => {
  const { page: address, ...others } = looked.pages;
  for (const width of [1280, 390]) {
    for (const dark of [false, true]) await opened(address, { width, dark }, page);
  }
  for (const step of [skip, ask, detail, anew, fold, tabs, end]) await opened(address, {}, step);
  // Without a script the same box is a form, and everything else is there.
  await opened(address, { script: false }, (plain) => walk(plain, "the page without a script"));
  await opened(address, { script: false }, async (plain) => {
    await reach(plain, "input[name=host]");
    await plain.keyboard.type(looked.refused);
    await plain.keyboard.press("Enter");
    await plain.waitForURL("**/?host=*");
    check((await plain.locator("#answer").textContent()).includes("No address can make"), "no answer");
  });
  for (const [name, other] of Object.entries(others)) {
    for (const width of [1280, 390]) {
      for (const dark of [false, true]) await opened(other, { width, dark }, (it) => walk(it, `${name} at ${width}`));
    }
  }
});
