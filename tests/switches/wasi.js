// wasi.js - node wasi.js PROGRAM.wasm ARGUMENTS: run a program that clang compiled for wasm32-wasi.
const { WASI } = require('wasi'), fs = require('fs'), a = process.argv.slice(2);
const wasi = new WASI({ version: 'preview1', args: a, env: process.env, preopens: { '/': '/' } });
WebAssembly.instantiate(fs.readFileSync(a[0]), wasi.getImportObject()).then(m => process.exitCode = wasi.start(m.instance));
