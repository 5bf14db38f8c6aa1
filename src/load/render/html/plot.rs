//! Draws plots as SVG for a page. The page defines the colours for light and dark mode, and adds
//! the legend and the captions.

use std::ops::Range;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::load::number::number;

/// The size of a plot in its own units; the page scales it.
const WIDTH: u32 = 480;
const HEIGHT: u32 = 280;

/// The number of distinguishable lines.
pub(super) const COLOURS: usize = 12;

/// Placeholders for the page's colours in what plotters draws: foreground and grid, then the lines.
const INK: RGBColor = RGBColor(1, 2, 3);
const GRID: RGBColor = RGBColor(1, 2, 4);

fn colour(index: usize) -> RGBColor {
    let index = u8::try_from(index % COLOURS).expect("few colours");
    RGBColor(9, 9, index)
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Line {
    /// The index of its colour, from 0.
    pub(super) colour: usize,
    /// Its points; a gap starts a new piece.
    pub(super) pieces: Vec<Vec<(f64, f64)>>,
    /// The extremes at a value: x, minimum, maximum.
    pub(super) whiskers: Vec<(f64, f64, f64)>,
    /// Whether each point is marked.
    pub(super) dots: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Plot {
    /// A description for people who cannot see the plot.
    pub(super) title: String,
    /// The label of the x axis.
    pub(super) x: String,
    /// The label of the y axis.
    pub(super) y: String,
    /// Whether the y axis is logarithmic if the values differ enough.
    pub(super) log: bool,
    /// Whether the x axis is, in the same way.
    pub(super) log_x: bool,
    /// The end of the y axis, if it is not that of the values.
    pub(super) top: Option<f64>,
    /// Shaded ranges of x over the whole height.
    pub(super) shaded: Vec<(f64, f64)>,
    pub(super) lines: Vec<Line>,
}

impl Plot {
    /// A plot with linear axes.
    pub(super) fn of(title: String, x: &str, y: &str, lines: Vec<Line>) -> Plot {
        let (x, y) = (x.to_owned(), y.to_owned());
        Plot { title, x, y, log: false, log_x: false, top: None, shaded: Vec::new(), lines }
    }

    /// Draws the plot; `None` if there is nothing to draw.
    ///
    /// # Panics
    /// Never, because writing to memory cannot fail.
    pub(super) fn svg(&self) -> Option<String> {
        let points = || self.lines.iter().flat_map(|it| it.pieces.iter().flatten());
        let whiskers = || self.lines.iter().flat_map(|it| &it.whiskers);
        let xs = points().map(|it| it.0).chain(self.shaded.iter().flat_map(|it| [it.0, it.1]));
        let (left, right) = extent(xs)?;
        let ys = points().map(|it| it.1).chain(whiskers().flat_map(|it| [it.1, it.2]));
        let (low, high) = extent(ys)?;
        let x = wide(left.min(0.0), right);
        // Values within a factor of ten are just as clear on a linear axis.
        let log_x = (self.log_x && left > 0.0 && right >= 10.0 * left)
            .then(|| with_two_marks(left / 1.2, right * 1.2).log_scale());
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
            let log_y = (self.log && high >= 10.0 * low).then(|| {
                let low = low.max(high / 1e6).max(1e-3);
                with_two_marks(low / 1.2, (high * 1.2).max(low * 2.0)).log_scale()
            });
            let y = wide(0.0, self.top.unwrap_or(high * 1.06));
            let done = match (log_x, log_y) {
                (Some(x), Some(y)) => self.draw(&root, x, y),
                (Some(x), None) => self.draw(&root, x, y),
                (None, Some(y)) => self.draw(&root, x, y),
                (None, None) => self.draw(&root, x, y),
            };
            done.and_then(|()| root.present()).expect("writing to memory does not fail");
        }
        Some(self.dress(&svg))
    }

    fn draw<'a, X, Y>(
        &self,
        root: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
        x: X,
        y: Y,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    {
        let mut chart = ChartBuilder::on(root)
            .margin(8)
            .margin_right(18)
            .x_label_area_size(44)
            .y_label_area_size(80)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_labels(7)
            .y_labels(6)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .label_style(("sans-serif", 15).into_font().color(&INK))
            .axis_style(INK.mix(0.5))
            .bold_line_style(GRID.mix(0.6))
            .light_line_style(TRANSPARENT)
            .draw()?;
        let (low, high) = {
            let range = chart.y_range();
            (range.start, range.end)
        };
        for (from, to) in &self.shaded {
            let corners = [(*from, low), (*to, high)];
            chart.draw_series([Rectangle::new(corners, INK.mix(0.12).filled())])?;
        }
        for line in &self.lines {
            let stroke = colour(line.colour).stroke_width(2);
            for piece in &line.pieces {
                chart.draw_series(LineSeries::new(piece.iter().copied(), stroke))?;
            }
            let bar = |(x, least, most): &(f64, f64, f64)| {
                PathElement::new(vec![(*x, *least), (*x, *most)], colour(line.colour))
            };
            chart.draw_series(line.whiskers.iter().map(bar))?;
            if line.dots {
                let all = line.pieces.iter().flatten();
                let dot = |point: &(f64, f64)| Circle::new(*point, 3, stroke.filled());
                chart.draw_series(all.map(dot))?;
            }
        }
        Ok(())
    }

    /// Replaces the placeholder colours with names, and adds the title.
    fn dress(&self, svg: &str) -> String {
        let mut svg = svg
            .replace("#010203", "var(--ink)")
            .replace("#010204", "var(--grid)")
            .replace("font-family=\"sans-serif\"", "font-family=\"inherit\"");
        for index in 0..COLOURS {
            let stands = colour(index);
            let stands = format!("#{:02X}{:02X}{:02X}", stands.0, stands.1, stands.2);
            svg = svg.replace(&stands, &format!("var(--c{index})"));
        }
        let body = svg.split_once('>').map_or("", |(_, body)| body);
        let title = super::escape(&self.title);
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{title}</title>{body}")
    }
}

fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|value| value.is_finite());
    finite.fold(None, |extent, value| {
        let (low, high) = extent.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// Widens an empty range.
fn wide(low: f64, high: f64) -> Range<f64> {
    if high > low { low..high } else { low..low + 1.0 }
}

/// A logarithmic axis is labelled at powers of ten; extends it to contain at least two of them.
fn with_two_marks(low: f64, high: f64) -> Range<f64> {
    let (first, last) = (low.log10().ceil(), high.log10().floor());
    if last > first {
        return low..high;
    }
    let (below, above) = (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()));
    // Extend it at the nearer end, and a little further, so that the label is surely on the axis.
    match low / below <= above / high {
        true => below * 0.99..high,
        false => low..above * 1.01,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_axis_has_two_marks() {
        for (low, high) in [(106.0, 6_000.0), (60.0, 1_300.0), (250.0, 5_000.0), (0.09, 0.95)] {
            let range = with_two_marks(low, high);
            let marks = (-3..6).map(|power| 10_f64.powi(power));
            let marks = marks.filter(|mark| range.contains(mark)).count();
            assert!(marks >= 2, "{range:?}");
            assert!(range.start <= low && range.end >= high, "{range:?}");
        }
        assert_eq!(with_two_marks(60.0, 1_300.0), 60.0..1_300.0);
    }
}
