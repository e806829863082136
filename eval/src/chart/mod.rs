//! The charts of the reports, as SVG text. Callers bring numbers and names; nothing here knows what they mean.

mod canvas;
mod uncertain;

use canvas::{Anchor, Canvas, Scale};
pub use canvas::{BLACK, Mark, PALETTE};
pub use uncertain::{Curve, Whiskers, curves, whiskers};

/// One legend entry with its points.
pub struct Points {
    pub name: String,
    pub mark: Mark,
    pub color: &'static str,
    pub at: Vec<(f64, f64)>,
}

/// A reference line, dashed.
pub struct Level {
    pub name: String,
    pub color: &'static str,
    pub value: f64,
}

/// Points by two numbers; later series lie on top and are drawn larger if they have a single point.
pub fn scatter(title: &str, x_label: &str, y_label: &str, series: &[Points]) -> String {
    let mut canvas = Canvas::new(title, 480.0);
    let all = || series.iter().flat_map(|points| points.at.iter().copied());
    let x = Scale::new(0.0, all().map(|(x, _)| x).fold(0.0, f64::max), canvas.left(), canvas.right());
    let y = Scale::new(0.0, all().map(|(_, y)| y).fold(0.0, f64::max), canvas.bottom(), canvas.top());
    canvas.x_axis(&x);
    canvas.y_axis(&y, y_label);
    canvas.x_label(x_label);
    for points in series {
        for (px, py) in &points.at {
            let r = if points.mark == Mark::Dot { 6.0 } else { 7.5 };
            canvas.mark(points.mark, (x.at(*px), y.at(*py)), r, points.color);
        }
        canvas.legend(points.mark, points.color, &points.name);
    }
    canvas.finish()
}

/// Bars side by side: `values[group][series]`.
pub fn grouped_bars(
    title: &str,
    y_label: &str,
    groups: &[String],
    series: &[(String, &str)],
    values: &[Vec<f64>],
) -> String {
    let mut canvas = Canvas::new(title, 440.0);
    let high = values.iter().flatten().copied().fold(0.0, f64::max);
    let y = Scale::new(0.0, high, canvas.bottom(), canvas.top());
    canvas.y_axis(&y, y_label);
    canvas.x_label("");
    let group_width = (canvas.right() - canvas.left()) / groups.len().max(1) as f64;
    let bar_width = (group_width * 0.82 / series.len().max(1) as f64).min(64.0);
    for (i, (group, values)) in groups.iter().zip(values).enumerate() {
        let middle = canvas.left() + group_width * (i as f64 + 0.5);
        let start = middle - bar_width * series.len() as f64 / 2.0;
        for (j, ((_, color), value)) in series.iter().zip(values).enumerate() {
            let top = y.at(*value);
            canvas.rect(start + bar_width * j as f64 + 1.0, top, bar_width - 2.0, canvas.bottom() - top, color);
        }
        let size = if group.len() as f64 * 7.0 > group_width { 10.0 } else { 13.0 };
        canvas.text((middle, canvas.bottom() + 20.0), size, Anchor::Middle, group);
    }
    for (name, color) in series {
        canvas.legend(Mark::Bar, color, name);
    }
    canvas.finish()
}

/// Lying bars made of parts: `values[bar][part]`, in shares of one; the sum stands at the end of the bar.
pub fn stacked_bars(title: &str, bars: &[String], parts: &[(String, &str)], values: &[Vec<f64>]) -> String {
    const NAME_WIDTH: f64 = 110.0;
    let mut canvas = Canvas::new(title, 130.0 + 28.0 * bars.len().max(5) as f64);
    let left = canvas.left() + NAME_WIDTH;
    let sum = |parts: &Vec<f64>| parts.iter().sum::<f64>();
    let high = values.iter().map(sum).fold(0.0, f64::max);
    // Room for the number behind the longest bar.
    let x = Scale::new(0.0, high * 100.0, left, canvas.right() - 50.0);
    for (i, (bar, values)) in bars.iter().zip(values).enumerate() {
        let top = canvas.top() + 28.0 * i as f64;
        canvas.text((left - 8.0, top + 15.0), 13.0, Anchor::End, bar);
        let mut done = 0.0;
        for ((_, color), value) in parts.iter().zip(values) {
            canvas.rect(x.at(done), top, x.at(done + value * 100.0) - x.at(done), 20.0, color);
            done += value * 100.0;
        }
        canvas.text((x.at(done) + 6.0, top + 15.0), 12.0, Anchor::Start, &format!("{done:.1} %"));
    }
    for (name, color) in parts {
        canvas.legend(Mark::Bar, color, name);
    }
    canvas.finish()
}

/// A line over evenly spaced steps, with reference levels.
pub fn line(title: &str, labels: [&str; 2], steps: &[String], name: &str, values: &[f64], levels: &[Level]) -> String {
    let mut canvas = Canvas::new(title, 440.0);
    let all = || values.iter().copied().chain(levels.iter().map(|level| level.value));
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(f64::NEG_INFINITY, f64::max);
    let margin = ((high - low) * 0.05).max(0.005);
    let y = Scale::new((low - margin).max(0.0), high + margin, canvas.bottom(), canvas.top());
    canvas.y_axis(&y, labels[1]);
    canvas.x_label(labels[0]);
    let step_width = (canvas.right() - canvas.left()) / steps.len().max(1) as f64;
    let at = |i: usize| canvas.left() + step_width * (i as f64 + 0.5);
    let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, value)| (at(i), y.at(*value))).collect();
    for (point, step) in points.iter().zip(steps) {
        canvas.text((point.0, canvas.bottom() + 20.0), 12.0, Anchor::Middle, step);
    }
    for level in levels {
        canvas.line((canvas.left(), y.at(level.value)), (canvas.right(), y.at(level.value)), level.color, 2.0, true);
    }
    for pair in points.windows(2) {
        canvas.line(pair[0], pair[1], PALETTE[1], 2.5, false);
    }
    for point in &points {
        canvas.mark(Mark::Dot, *point, 6.0, PALETTE[1]);
    }
    canvas.legend(Mark::Dot, PALETTE[1], name);
    for level in levels {
        canvas.legend(Mark::Dashes, level.color, &level.name);
    }
    canvas.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_drawn() {
        let names = |n: usize| (0..n).map(|i| format!("g{i}")).collect::<Vec<_>>();
        let parts = [("a".to_string(), PALETTE[0]), ("b".to_string(), PALETTE[1])];
        let bars = grouped_bars("t", "y", &names(3), &parts, &[vec![0.1, 0.2], vec![0.3, 0.4], vec![0.5, 0.6]]);
        // The page, six bars and two legend entries.
        assert_eq!(bars.matches("<rect").count(), 1 + 6 + 2);
        let stacked = stacked_bars("t", &names(2), &parts, &[vec![0.1, 0.2], vec![0.3, 0.4]]);
        assert!(stacked.contains("30.0 %") && stacked.contains("70.0 %"));
        let levels = [Level { name: "top".into(), color: BLACK, value: 0.9 }];
        let line = line("t", ["x", "y"], &names(3), "score", &[0.5, 0.6, 0.7], &levels);
        assert_eq!(line.matches("<circle").count(), 3 + 1);
        let points = Points { name: "p".into(), mark: Mark::Diamond, color: BLACK, at: vec![(1.0, 0.5), (2.0, 0.6)] };
        assert_eq!(scatter("t", "x", "y", &[points]).matches("<polygon").count(), 2 + 1);
    }
}
