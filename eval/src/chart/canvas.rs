//! An SVG page: white background, one font, a plotting area with grid and labels, and a legend in a column of its own at the
//! right, so that nothing lies over anything.

use std::fmt::Write;

pub const WIDTH: f64 = 900.0;
/// Left, top, right and bottom of the plotting area.
const LEFT: f64 = 76.0;
const TOP: f64 = 56.0;
const RIGHT: f64 = 672.0;
const LEGEND_X: f64 = 700.0;
const INK: &str = "#222222";
const FAINT: &str = "#dddddd";

/// The colour-blind-safe palette of Okabe and Ito, dark ones first; black is kept for reference lines.
pub const PALETTE: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C"];
pub const BLACK: &str = "#222222";

/// How a point or a legend entry is drawn.
#[derive(Clone, Copy, PartialEq)]
pub enum Mark {
    Dot,
    Diamond,
    Square,
    Triangle,
    Cross,
    Bar,
    Dashes,
}

/// Where text is anchored.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

pub struct Canvas {
    body: String,
    height: f64,
    legend_y: f64,
}

impl Canvas {
    pub fn new(title: &str, height: f64) -> Canvas {
        let mut canvas = Canvas { body: String::new(), height, legend_y: TOP + 8.0 };
        let _ = write!(
            canvas.body,
            "<text x=\"{LEFT}\" y=\"30\" font-size=\"18\" font-weight=\"600\" fill=\"{INK}\">{}</text>",
            escape(title)
        );
        canvas
    }

    pub fn left(&self) -> f64 {
        LEFT
    }

    pub fn top(&self) -> f64 {
        TOP
    }

    pub fn right(&self) -> f64 {
        RIGHT
    }

    pub fn bottom(&self) -> f64 {
        self.height - 64.0
    }

    /// Horizontal grid lines with their values, and both axis titles.
    pub fn y_axis(&mut self, y: &Scale, label: &str) {
        for tick in y.ticks() {
            let at = y.at(tick);
            self.line((LEFT, at), (RIGHT, at), FAINT, 1.0, false);
            self.text((LEFT - 8.0, at + 4.0), 12.0, Anchor::End, &y.format(tick));
        }
        let middle = (TOP + self.bottom()) / 2.0;
        let _ = write!(
            self.body,
            "<text transform=\"translate(22 {middle}) rotate(-90)\" font-size=\"13\" text-anchor=\"middle\" fill=\"{INK}\">{}</text>",
            escape(label)
        );
    }

    /// Vertical grid lines with their values.
    pub fn x_axis(&mut self, x: &Scale) {
        for tick in x.ticks() {
            let at = x.at(tick);
            self.line((at, TOP), (at, self.bottom()), FAINT, 1.0, false);
            self.text((at, self.bottom() + 20.0), 12.0, Anchor::Middle, &x.format(tick));
        }
    }

    pub fn x_label(&mut self, label: &str) {
        self.line((LEFT, self.bottom()), (RIGHT, self.bottom()), INK, 1.0, false);
        self.text(((LEFT + RIGHT) / 2.0, self.bottom() + 46.0), 13.0, Anchor::Middle, label);
    }

    pub fn legend(&mut self, mark: Mark, color: &str, label: &str) {
        let y = self.legend_y;
        match mark {
            Mark::Dashes => {
                self.line((LEGEND_X - 9.0, y), (LEGEND_X + 9.0, y), color, 2.5, true);
            }
            _ => self.mark(mark, (LEGEND_X, y), 6.0, color),
        }
        self.text((LEGEND_X + 16.0, y + 4.5), 13.0, Anchor::Start, label);
        self.legend_y += 24.0;
    }

    pub fn mark(&mut self, mark: Mark, (x, y): (f64, f64), r: f64, color: &str) {
        let _ = match mark {
            Mark::Dot => write!(
                self.body,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\" fill=\"{color}\" stroke=\"white\" stroke-width=\"1\"/>"
            ),
            Mark::Diamond => {
                self.polygon(&[(x, y - 1.4 * r), (x + 1.4 * r, y), (x, y + 1.4 * r), (x - 1.4 * r, y)], color)
            }
            Mark::Triangle => self.polygon(&[(x, y - 1.3 * r), (x + 1.2 * r, y + r), (x - 1.2 * r, y + r)], color),
            Mark::Square => self.polygon(&[(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)], color),
            Mark::Cross => write!(
                self.body,
                "<path d=\"M{} {} L{} {} M{} {} L{} {}\" stroke=\"{color}\" stroke-width=\"3\"/>",
                x - r,
                y - r,
                x + r,
                y + r,
                x - r,
                y + r,
                x + r,
                y - r
            ),
            Mark::Bar | Mark::Dashes => {
                write!(
                    self.body,
                    "<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"12\" fill=\"{color}\"/>",
                    x - 7.0,
                    y - 6.0
                )
            }
        };
    }

    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, color: &str) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        let _ = write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\"/>"
        );
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, width: f64, dashed: bool) {
        let dashes = if dashed { " stroke-dasharray=\"6 5\"" } else { "" };
        let _ = write!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\" stroke-width=\"{width}\"{dashes}/>",
            from.0, from.1, to.0, to.1
        );
    }

    pub fn text(&mut self, (x, y): (f64, f64), size: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"{INK}\">{}</text>",
            escape(text)
        );
    }

    /// The SVG document.
    pub fn finish(self) -> String {
        let height = self.height;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\">\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>{}</svg>\n",
            self.body
        )
    }

    fn polygon(&mut self, points: &[(f64, f64)], color: &str) -> std::fmt::Result {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        write!(
            self.body,
            "<polygon points=\"{}\" fill=\"{color}\" stroke=\"white\" stroke-width=\"1\"/>",
            points.join(" ")
        )
    }
}

/// A linear axis from values to positions, with round tick values.
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    step: f64,
}

impl Scale {
    /// Covers `low..=high` (widened to whole steps) between the positions `from` and `to`.
    pub fn new(low: f64, high: f64, from: f64, to: f64) -> Scale {
        let span = if high > low { high - low } else { 1.0 };
        let magnitude = 10f64.powf((span / 6.0).log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|step| span / step <= 6.5);
        let step = step.unwrap_or(10.0 * magnitude);
        let (low, high) = ((low / step + 1e-9).floor() * step, (high.max(low + span) / step - 1e-9).ceil() * step);
        Scale { low, high, from, to, step }
    }

    pub fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        let n = ((self.high - self.low) / self.step).round() as usize;
        (0..=n).map(|i| self.low + i as f64 * self.step).collect()
    }

    fn format(&self, value: f64) -> String {
        let decimals = (0..6).find(|d| (self.step * 10f64.powi(*d)).fract().abs() < 1e-6).unwrap_or(6) as usize;
        format!("{value:.decimals$}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_ticks_and_cover_the_range() {
        for (low, high, ticks) in [
            (0.0, 0.93, vec!["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
            (0.0, 510.0, vec!["0", "100", "200", "300", "400", "500", "600"]),
            (0.0, 0.0, vec!["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ] {
            let scale = Scale::new(low, high, 0.0, 100.0);
            assert_eq!(scale.ticks().iter().map(|tick| scale.format(*tick)).collect::<Vec<_>>(), ticks);
            assert!(scale.at(low) >= -1e-6 && scale.at(high) <= 100.0 + 1e-6);
        }
    }

    #[test]
    fn text_is_escaped() {
        assert!(Canvas::new("a < b & c", 300.0).finish().contains("a &lt; b &amp; c"));
    }
}
