// Step 2: draw every icon once, 96 x 96 RGBA, into WORK/rgba.bin (one record per row of drawings.json).
//   node render.mjs NPM WORK [part parts]
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';

const [npm, work, part = '0', parts = '1'] = process.argv.slice(2);
const require = createRequire(path.resolve(npm, 'index.js'));
const { Resvg } = require('@resvg/resvg-js');
const SIZE = 96;

const rows = JSON.parse(fs.readFileSync(path.join(work, 'drawings.json')));
const packages = {};

function svgOf(style, icon) {
  const pack = (packages[style] ??= JSON.parse(
    fs.readFileSync(path.join(npm, '@iconify-json', style, 'icons.json'))));
  const it = pack.icons[icon];
  const w = it.width ?? pack.width ?? 16, h = it.height ?? pack.height ?? 16;
  const box = `${it.left ?? pack.left ?? 0} ${it.top ?? pack.top ?? 0} ${w} ${h}`;
  return `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
    `viewBox="${box}" width="${SIZE}" height="${SIZE}" color="#000">${it.body}</svg>`;
}

// A drawing can crash the renderer as a whole (a native panic), so a part resumes where it stopped
// and leaves the drawing it stopped at empty:  until node render.mjs ...; do :; done
const file = path.join(work, `rgba.${part}.bin`), mark = path.join(work, `rgba.${part}.tried`);
const bytes = SIZE * SIZE * 4, empty = Buffer.alloc(bytes);
const start = fs.existsSync(file) ? Math.floor(fs.statSync(file).size / bytes) : 0;
const tried = fs.existsSync(mark) ? Number(fs.readFileSync(mark)) : -1;
const out = fs.openSync(file, 'a');
for (let n = start; Number(part) + n * Number(parts) < rows.length; n++) {
  const { style, icon } = rows[Number(part) + n * Number(parts)];
  let pixels = empty;
  if (n !== tried) {
    fs.writeFileSync(mark, String(n));
    const image = new Resvg(svgOf(style, icon), { fitTo: { mode: 'width', value: SIZE } }).render();
    if (image.width === SIZE && image.height === SIZE) pixels = Buffer.from(image.pixels);
    else console.log(`wrong size: ${style} ${icon} ${image.width} ${image.height}`);
  } else console.log(`not drawn: ${style} ${icon}`);
  fs.writeSync(out, pixels);
}
fs.closeSync(out);
console.log(`part ${part}: done`);
