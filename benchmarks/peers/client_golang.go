// Measures client_golang: what an operation costs, and a scrape of one process. Prints one JSON object.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

const rounds, times, firstUses = 9, 1000000, 10000

func median(figures []float64) float64 {
	sort.Float64s(figures)
	return figures[len(figures)/2]
}

func nanoseconds(operation func()) float64 {
	var figures []float64
	for round := 0; round < rounds; round++ {
		start := time.Now()
		for i := 0; i < times; i++ {
			operation()
		}
		figures = append(figures, float64(time.Since(start).Nanoseconds())/times)
	}
	return median(figures)
}

func scrape(series int) float64 {
	registry := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total", Help: "h"}, []string{"path"})
	registry.MustRegister(requests)
	for i := 0; i < series; i++ {
		requests.WithLabelValues("/path/" + strconv.Itoa(i)).Add(float64(i))
	}
	var figures []float64
	for round := 0; round < rounds; round++ {
		start := time.Now()
		families, err := registry.Gather()
		if err != nil {
			panic(err)
		}
		var body bytes.Buffer
		encoder := expfmt.NewEncoder(&body, expfmt.FmtText)
		for _, family := range families {
			if err := encoder.Encode(family); err != nil {
				panic(err)
			}
		}
		figures = append(figures, float64(time.Since(start).Microseconds())/1000)
	}
	return median(figures)
}

func main() {
	series, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "usage: client_golang SERIES")
		os.Exit(2)
	}
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "plain", Help: "h"})
	labelled := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "labelled", Help: "h"}, []string{"method", "code"})
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "level", Help: "h"})
	histogram := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "took_seconds", Help: "h", Buckets: []float64{
		.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}})
	figures := map[string]float64{
		"inc() [ns]":                 nanoseconds(counter.Inc),
		"labels(a, b).inc() [ns]":    nanoseconds(func() { labelled.WithLabelValues("GET", "200").Inc() }),
		"observe(), 15 buckets [ns]": nanoseconds(func() { histogram.Observe(0.3) }),
		"set() [ns]":                 nanoseconds(func() { gauge.Set(1.5) }),
		"scrape [ms]":                scrape(series),
	}
	start := time.Now()
	for i := 0; i < firstUses; i++ {
		labelled.WithLabelValues("POST", strconv.Itoa(i)).Inc()
	}
	figures["first use of a series [us]"] = float64(time.Since(start).Nanoseconds()) / 1000 / firstUses
	if err := json.NewEncoder(os.Stdout).Encode(figures); err != nil {
		panic(err)
	}
}
