// Measures Node's prom-client: what an operation costs, and merging the metrics of many workers. Prints one JSON object.
'use strict';
const client = require('prom-client');

const ROUNDS = 9, TIMES = 200000, FIRST_USES = 10000;
const [series, workers] = process.argv.slice(2).map(Number);
const median = (figures) => figures.sort((a, b) => a - b)[figures.length >> 1];

function nanoseconds(operation) {
  const figures = [];
  for (let round = 0; round < ROUNDS; round++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < TIMES; i++) operation();
    figures.push(Number(process.hrtime.bigint() - start) / TIMES);
  }
  return median(figures);
}

async function scrape() {
  const registry = new client.Registry();
  const requests = new client.Counter({ name: 'requests_total', help: 'h', labelNames: ['path'], registers: [registry] });
  for (let i = 0; i < series; i++) requests.inc({ path: `/path/${i}` }, i);
  const texts = JSON.stringify(await registry.getMetricsAsJSON());
  const figures = [];
  for (let round = 0; round < ROUNDS; round++) {
    const received = Array.from({ length: workers }, () => JSON.parse(texts)); // what came from the workers
    const start = process.hrtime.bigint();
    await client.AggregatorRegistry.aggregate(received).metrics();
    figures.push(Number(process.hrtime.bigint() - start) / 1e6);
  }
  return median(figures);
}

async function main() {
  const registers = [];
  const counter = new client.Counter({ name: 'plain', help: 'h', registers });
  const labelled = new client.Counter({ name: 'labelled', help: 'h', labelNames: ['method', 'code'], registers });
  const gauge = new client.Gauge({ name: 'level', help: 'h', registers });
  const buckets = [.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10];
  const histogram = new client.Histogram({ name: 'took_seconds', help: 'h', buckets, registers });
  const figures = {
    'inc() [ns]': nanoseconds(() => counter.inc()),
    'labels(a, b).inc() [ns]': nanoseconds(() => labelled.labels('GET', '200').inc()),
    'observe(), 15 buckets [ns]': nanoseconds(() => histogram.observe(0.3)),
    'set() [ns]': nanoseconds(() => gauge.set(1.5)),
    'scrape [ms]': await scrape(),
  };
  const start = process.hrtime.bigint();
  for (let i = 0; i < FIRST_USES; i++) labelled.labels('POST', String(i)).inc();
  figures['first use of a series [us]'] = Number(process.hrtime.bigint() - start) / 1e3 / FIRST_USES;
  console.log(JSON.stringify(figures));
}

main();
