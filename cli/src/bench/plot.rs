//! A measurement as an SVG image: for each target a bar of its phases (medians), and below it a dot for each run.

use std::fmt::Write;

use super::sample::{Results, SeriesKind};
use super::stats::Summary;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 150.0;
const ROW: f64 = 74.0;
const TOP: f64 = 40.0;
const COLOURS: [&str; 8] = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f"];

/// Draws `results`.
pub fn svg(results: &Results) -> String {
    let targets = results.targets();
    let height = TOP + ROW * targets.len() as f64 + 30.0;
    let longest = results.samples.iter().flat_map(|s| s.marks.values()).copied().max().unwrap_or(1) as f64 / 1e6;
    let scale = (WIDTH - LEFT - 20.0) / longest.max(f64::MIN_POSITIVE);
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">milliseconds since spawn (bars: medians of phases; dots: runs)</text>\n"
    );
    axis(&mut out, longest, scale, height);
    for (row, target) in targets.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let _ = writeln!(out, "<text x=\"8\" y=\"{}\" font-size=\"13\">{}</text>", y + 24.0, escape(target));
        let mut from = 0.0;
        let marks = results.series(target).into_iter().filter(|s| s.kind == SeriesKind::Mark);
        for (i, series) in marks.enumerate() {
            let Some(summary) = Summary::of(&series.values) else { continue };
            let colour = COLOURS[i % COLOURS.len()];
            let (x, width) = (LEFT + from * scale, (summary.p50 - from).max(0.0) * scale);
            let title = format!("{}: {:.2} ms", escape(&series.name), summary.p50);
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"22\" fill=\"{colour}\"><title>{title}</title></rect>",
                y + 8.0
            );
            if width > 9.0 * series.name.len() as f64 {
                let _ = writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"white\">{}</text>",
                    x + 4.0,
                    y + 23.0,
                    escape(&series.name)
                );
            }
            for (n, value) in series.values.iter().enumerate() {
                let (cx, cy) = (LEFT + value * scale, y + 38.0 + (n % 5) as f64 * 5.0);
                let _ = writeln!(
                    out,
                    "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2\" fill=\"{colour}\" fill-opacity=\"0.7\"><title>{}: {value:.2} ms</title></circle>",
                    escape(&series.name)
                );
            }
            from = summary.p50;
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Grid lines at round numbers.
fn axis(out: &mut String, longest: f64, scale: f64, height: f64) {
    let rough = longest / 8.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(power * 10.0);
    if !step.is_finite() || step <= 0.0 {
        return;
    }
    let mut at = 0.0;
    while at <= longest {
        let x = LEFT + at * scale;
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
            height - 24.0,
            height - 10.0,
            (at * 1000.0).round() / 1000.0
        );
        at += step;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Sample, RESULTS_VERSION};
    use super::*;

    #[test]
    fn every_target_mark_and_run_is_drawn_and_escaped() {
        let sample = |target: &str| Sample {
            target: target.into(),
            marks: [("kernel".to_owned(), 40_000_000), ("init".to_owned(), 100_000_000)].into(),
            ..Sample::default()
        };
        let results = Results {
            version: RESULTS_VERSION,
            program: String::new(),
            host: Default::default(),
            settings: Default::default(),
            samples: vec![sample("hutch"), sample("a<b"), sample("hutch")],
            syscalls: Vec::new(),
            dropped: Vec::new(),
        };
        let picture = svg(&results);
        assert_eq!(picture.matches("<circle").count(), 6);
        assert!(picture.contains("a&lt;b") && !picture.contains("a<b"));
        assert!(picture.contains("init: 100.00 ms"));
        assert!(picture.ends_with("</svg>\n"));
        let empty = Results { samples: vec![], ..results };
        assert!(svg(&empty).ends_with("</svg>\n"));
    }
}
