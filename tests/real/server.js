// An HTTP server that makes garbage for every answer: arrays, buffers, objects that live for a while.
const http = require("http");
const kept = [];

function work() {
  const values = Array.from({ length: 100000 }, (_, i) => ({ value: i, text: "n" + i }));
  kept.push(Buffer.alloc(65536, values.length & 255));
  if (kept.length > 200) kept.splice(0, 100);
  return values.reduce((sum, entry) => sum + entry.value, 0);
}

http.createServer((_, answer) => answer.end(String(work()))).listen(Number(process.argv[2]), "127.0.0.1");
