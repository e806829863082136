//! Two charts of uncertain quantities: dots with intervals over named steps, and curves between two shares.

use super::canvas::{Anchor, Canvas, Mark, Scale};

/// One legend entry: a mean with its interval at each step, `(low, mean, high)`, or nothing.
pub struct Whiskers {
    pub name: String,
    pub mark: Mark,
    pub color: &'static str,
    pub at: Vec<Option<(f64, f64, f64)>>,
}

/// Dots with whiskers, side by side within each step, joined where neighbouring steps have values.
pub fn whiskers(title: &str, labels: [&str; 2], steps: &[String], series: &[Whiskers]) -> String {
    /// Between the series of one step.
    const MAX_GAP: f64 = 11.0;
    let mut canvas = Canvas::new(title, 440.0);
    let all = || series.iter().flat_map(|whiskers| whiskers.at.iter().flatten());
    let low = all().map(|(low, ..)| *low).fold(f64::INFINITY, f64::min);
    let high = all().map(|(.., high)| *high).fold(f64::NEG_INFINITY, f64::max);
    // Neither an empty chart nor one where everything is the same value.
    let (low, high) = if low.is_finite() { (low.min(high * 0.95), high) } else { (0.0, 1.0) };
    let y = Scale::new(low, high, canvas.bottom(), canvas.top());
    canvas.y_axis(&y, labels[1]);
    canvas.x_label(labels[0]);
    let step_width = (canvas.right() - canvas.left()) / steps.len().max(1) as f64;
    let gap = (step_width * 0.7 / series.len().max(1) as f64).min(MAX_GAP);
    let (left, bottom) = (canvas.left(), canvas.bottom());
    let x = |step: usize, at: usize| {
        left + step_width * (step as f64 + 0.5) + gap * (at as f64 - (series.len() as f64 - 1.0) / 2.0)
    };
    for (at, step) in steps.iter().enumerate() {
        let size = if step.len() as f64 * 7.0 > step_width { 10.0 } else { 12.0 };
        canvas.text((left + step_width * (at as f64 + 0.5), bottom + 20.0), size, Anchor::Middle, step);
    }
    for (at, whiskers) in series.iter().enumerate() {
        let points: Vec<Option<(f64, f64)>> = (whiskers.at.iter().enumerate())
            .map(|(step, value)| value.map(|(_, mean, _)| (x(step, at), y.at(mean))))
            .collect();
        for pair in points.windows(2) {
            if let [Some(from), Some(to)] = pair {
                canvas.line(*from, *to, whiskers.color, 1.0, true);
            }
        }
        for (step, value) in whiskers.at.iter().enumerate() {
            let Some((low, mean, high)) = *value else { continue };
            let at = x(step, at);
            canvas.line((at, y.at(low)), (at, y.at(high)), whiskers.color, 2.0, false);
            canvas.mark(whiskers.mark, (at, y.at(mean)), 4.5, whiskers.color);
        }
        canvas.legend(whiskers.mark, whiskers.color, &whiskers.name);
    }
    canvas.finish()
}

/// One legend entry: a polyline.
pub struct Curve {
    pub name: String,
    pub color: &'static str,
    pub at: Vec<(f64, f64)>,
}

/// Curves over the unit square, both axes in percent.
pub fn curves(title: &str, labels: [&str; 2], series: &[Curve]) -> String {
    let mut canvas = Canvas::new(title, 480.0);
    let x = Scale::new(0.0, 100.0, canvas.left(), canvas.right());
    let y = Scale::new(0.0, 100.0, canvas.bottom(), canvas.top());
    canvas.x_axis(&x);
    canvas.y_axis(&y, labels[1]);
    canvas.x_label(labels[0]);
    for curve in series {
        let points: Vec<(f64, f64)> = curve.at.iter().map(|(px, py)| (x.at(px * 100.0), y.at(py * 100.0))).collect();
        for pair in points.windows(2) {
            if let [from, to] = pair {
                canvas.line(*from, *to, curve.color, 2.5, false);
            }
        }
        canvas.legend(Mark::Bar, curve.color, &curve.name);
    }
    canvas.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_dot_and_whisker() {
        let steps: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let at = vec![Some((0.4, 0.5, 0.6)), None, Some((0.6, 0.7, 0.8))];
        let one = Whiskers { name: "n".into(), mark: Mark::Dot, color: "#000000", at };
        let chart = whiskers("t", ["x", "y"], &steps, &[one]);
        assert_eq!(chart.matches("<circle").count(), 2 + 1);
        assert_eq!(chart.matches("stroke=\"#000000\"").count(), 2);
        assert!(whiskers("t", ["x", "y"], &[], &[]).contains("</svg>"));
    }

    #[test]
    fn a_curve_is_a_line_between_each_two_points() {
        let curve = Curve { name: "n".into(), color: "#123456", at: vec![(0.0, 0.0), (0.2, 0.7), (1.0, 1.0)] };
        assert_eq!(curves("t", ["x", "y"], &[curve]).matches("stroke=\"#123456\"").count(), 2);
    }
}
