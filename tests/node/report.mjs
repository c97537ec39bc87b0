// Opens pages from the disk in Chromium and prints what they do there: PROGRAM PROFILE PAGE...
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.cwd()}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [program, profile, ...pages] = process.argv.slice(2);

const context = await chromium.launchPersistentContext(profile, {
  executablePath: program,
  offline: true,
  args: [
    "--no-sandbox", // it does not start for root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const look = async (page) => {
  const tab = await context.newPage();
  const told = [];
  const requests = [];
  tab.on("console", (message) => told.push(message.text()));
  tab.on("pageerror", (error) => told.push(String(error)));
  tab.on("request", (request) => requests.push(request.url()));
  await tab.goto(pathToFileURL(page).href);

  const overflow = () =>
    tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

  // what is folded is looked at as well
  const details = await tab.locator("details").count();
  await tab.locator("summary").first().focus();
  await tab.keyboard.press("Enter");
  const opened = await tab.locator("details[open]").count();
  await tab.keyboard.press("Tab");
  const next = await tab.evaluate(() => document.activeElement.className);
  await tab.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));

  const wide = {};
  const violations = {};
  const colours = {};
  for (const scheme of ["light", "dark"]) {
    await tab.emulateMedia({ colorScheme: scheme });
    colours[scheme] = await tab.evaluate(() => getComputedStyle(document.body).backgroundColor);
    for (const width of [360, 820, 1400]) {
      await tab.setViewportSize({ width, height: 900 });
      wide[`${scheme} ${width}`] = await overflow();
    }
  }
  for (const [scheme, width] of [["light", 360], ["dark", 1400]]) {
    await tab.emulateMedia({ colorScheme: scheme });
    await tab.setViewportSize({ width, height: 900 });
    if (!(await tab.evaluate(() => "axe" in window))) await tab.evaluate(axe);
    const found = await tab.evaluate(() => axe.run({ resultTypes: ["violations"] }));
    violations[`${scheme} ${width}`] = found.violations.map(
      ({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 120)).join("; ")}`,
    );
  }

  // A4 between margins of 15 mm
  await tab.setViewportSize({ width: 680, height: 1000 });
  await tab.emulateMedia({ media: "print", colorScheme: "dark" });
  const paper = await tab.evaluate(() => ({
    background: getComputedStyle(document.body).backgroundColor,
    cut: [...document.querySelectorAll("table, svg, textarea, pre")]
      .map((one) => [one.getBoundingClientRect().right, one.outerHTML.slice(0, 80)])
      .filter(([right]) => right > innerWidth + 1),
  }));
  await tab.close();
  return { told, requests, details, opened, next, wide, violations, colours, paper };
};

const found = {};
for (const page of pages) found[page] = await look(page);
await context.close();
console.log(JSON.stringify(found));
