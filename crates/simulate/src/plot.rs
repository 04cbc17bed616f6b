//! Plots as SVG: lines over time, and bars beside each other. Plain text, the same for the same figures.

use std::fmt::Write;

/// Colours that people with any kind of colour vision tell apart (Okabe, Ito), the lightest ones last.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9"];
/// Dashes, so that colours are not needed.
const DASHES: [&str; 7] = ["", "7 3", "2 2", "9 2 2 2", "12 4", "4 4", "1 3"];

const WIDTH: f64 = 860.0;
const PANEL_HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
const LEGEND_HEIGHT: f64 = 30.0;

/// Something over something else, for several.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// What it shows.
    pub title: String,
    /// What lies to the right, with its unit.
    pub x_label: String,
    /// What rises, with its unit.
    pub y_label: String,
    /// The points of each, in the order of names.
    pub series: Vec<Vec<(f64, f64)>>,
}

/// A figure for each of several, in groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// What it shows.
    pub title: String,
    /// What rises, with its unit.
    pub y_label: String,
    /// Each group's name and its figures, in the order of names.
    pub groups: Vec<(String, Vec<f64>)>,
}

/// A picture of panels below each other, of the same few, with one legend.
#[derive(Debug)]
pub struct Picture {
    text: String,
    names: Vec<String>,
    y: f64,
}

impl Picture {
    /// A picture of these.
    pub fn new(names: Vec<String>) -> Self {
        Self { text: String::new(), names, y: LEGEND_HEIGHT }
    }

    /// Adds a panel of lines.
    #[must_use]
    pub fn lines(mut self, panel: &Lines) -> Self {
        let points = || panel.series.iter().flatten();
        let x = Scale::over(points().map(|point| point.0));
        let y = Scale::over(points().map(|point| point.1).chain([0.0]));
        self.frame(&panel.title, &panel.y_label, y);
        for tick in x.ticks() {
            let at = across(x.part(tick));
            self.text(at, self.bottom() + 16.0, "middle", &number(tick, x.step));
        }
        self.text((LEFT + WIDTH - RIGHT) / 2.0, self.bottom() + 34.0, "middle", &panel.x_label);
        for (index, series) in panel.series.iter().enumerate() {
            let mut path = String::new();
            for (along, up) in series {
                let at = (across(x.part(*along)), self.height_of(y.part(*up)));
                _ = write!(path, "{:.1},{:.1} ", at.0, at.1);
            }
            let (colour, dash) = style(index);
            _ = writeln!(
                self.text,
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>"#,
                path.trim_end()
            );
        }
        self.y += PANEL_HEIGHT;
        self
    }

    /// Adds a panel of bars.
    #[must_use]
    pub fn bars(mut self, panel: &Bars) -> Self {
        let figures = panel.groups.iter().flat_map(|(_, figures)| figures);
        let y = Scale::over(figures.copied().filter(|figure| figure.is_finite()).chain([0.0]));
        self.frame(&panel.title, &panel.y_label, y);
        let room = (WIDTH - LEFT - RIGHT) / panel.groups.len().max(1) as f64;
        let width = 0.86 * room / self.names.len().max(1) as f64;
        for (index, (group, figures)) in panel.groups.iter().enumerate() {
            let from = LEFT + room * (index as f64 + 0.07);
            self.text(from + 0.43 * room, self.bottom() + 18.0, "middle", group);
            for (at, figure) in figures.iter().enumerate() {
                let left = from + width * at as f64;
                let middle = left + width / 2.0;
                if !figure.is_finite() {
                    self.text(middle, self.bottom() - 4.0, "middle", "–");
                    continue;
                }
                let top = self.height_of(y.part(*figure));
                let height = (self.bottom() - top).max(0.5);
                let (colour, _) = style(at);
                _ = writeln!(
                    self.text,
                    r#"<rect x="{left:.1}" y="{top:.1}" width="{:.1}" height="{height:.1}" fill="{colour}"/>"#,
                    0.92 * width
                );
                let text = number(*figure, (y.step / 20.0).max(0.1));
                self.small(middle, top - 3.0, &text);
            }
        }
        self.y += PANEL_HEIGHT;
        self
    }

    /// The picture as SVG.
    pub fn finish(mut self) -> String {
        let mut legend = String::new();
        let mut x = LEFT;
        for (index, name) in self.names.iter().enumerate() {
            let (colour, dash) = style(index);
            _ = writeln!(
                legend,
                r#"<line x1="{x:.1}" y1="16" x2="{:.1}" y2="16" stroke="{colour}" stroke-width="5"{dash}/>"#,
                x + 26.0
            );
            _ = writeln!(legend, r#"<text x="{:.1}" y="20">{}</text>"#, x + 32.0, escaped(name));
            x += 56.0 + 7.0 * name.chars().count() as f64;
        }
        self.text.insert_str(0, &legend);
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" "#,
                r#"font-family="Helvetica, Arial, sans-serif" font-size="12">"#,
                "\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
            ),
            width = WIDTH,
            height = self.y,
            body = self.text
        )
    }

    /// The title, the lines across with their figures, and the axes.
    fn frame(&mut self, title: &str, y_label: &str, scale: Scale) {
        let (top, bottom, right) = (self.y + TOP, self.bottom(), WIDTH - RIGHT);
        _ = writeln!(
            self.text,
            r#"<text x="{LEFT}" y="{:.1}" font-weight="bold">{}</text>"#,
            self.y + 20.0,
            escaped(title)
        );
        for tick in scale.ticks() {
            let at = self.height_of(scale.part(tick));
            _ = writeln!(
                self.text,
                r##"<line x1="{LEFT}" y1="{at:.1}" x2="{right}" y2="{at:.1}" stroke="#dddddd"/>"##
            );
            self.text(LEFT - 6.0, at + 4.0, "end", &number(tick, scale.step));
        }
        _ = writeln!(
            self.text,
            r##"<polyline points="{LEFT},{top:.1} {LEFT},{bottom:.1} {right},{bottom:.1}" fill="none" stroke="#444444"/>"##
        );
        let middle = (top + bottom) / 2.0;
        _ = writeln!(
            self.text,
            r#"<text x="16" y="{middle:.1}" text-anchor="middle" transform="rotate(-90 16 {middle:.1})">{}</text>"#,
            escaped(y_label)
        );
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        _ = writeln!(
            self.text,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
            escaped(text)
        );
    }

    fn small(&mut self, x: f64, y: f64, text: &str) {
        _ = writeln!(
            self.text,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="middle" font-size="9">{}</text>"#,
            escaped(text)
        );
    }

    fn bottom(&self) -> f64 {
        self.y + PANEL_HEIGHT - BOTTOM
    }

    fn height_of(&self, part: f64) -> f64 {
        self.bottom() - part * (PANEL_HEIGHT - TOP - BOTTOM)
    }
}

fn across(part: f64) -> f64 {
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn style(index: usize) -> (&'static str, String) {
    let dash = DASHES[index % DASHES.len()];
    let dash =
        if dash.is_empty() { String::new() } else { format!(r#" stroke-dasharray="{dash}""#) };
    (COLOURS[index % COLOURS.len()], dash)
}

/// An axis from one figure to another, with a tick every so often.
#[derive(Debug, Clone, Copy)]
struct Scale {
    from: f64,
    to: f64,
    step: f64,
}

impl Scale {
    /// An axis that holds all of these.
    fn over(figures: impl Iterator<Item = f64>) -> Self {
        let (from, to) = figures.fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), figure| {
            (from.min(figure), to.max(figure))
        });
        let (from, to) = match from.partial_cmp(&to) {
            Some(std::cmp::Ordering::Less) => (from, to),
            Some(std::cmp::Ordering::Equal) => (from, from + 1.0),
            // Nothing at all.
            _ => (0.0, 1.0),
        };
        let rough = (to - from) / 5.0;
        let power = libm::pow(10.0, libm::floor(libm::log10(rough)));
        let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough);
        let step = round.unwrap_or(10.0) * power;
        let whole = |figure: f64| libm::ceil(figure / step - 1e-9) * step;
        Self { from: libm::floor(from / step + 1e-9) * step, to: whole(to), step }
    }

    fn part(&self, figure: f64) -> f64 {
        (figure - self.from) / (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let Self { from, to, step } = *self;
        let count = libm::round((to - from) / step) as u32;
        (0..=count).map(move |index| from + f64::from(index) * step)
    }
}

/// A figure with as many decimals as its steps need.
fn number(figure: f64, step: f64) -> String {
    let decimals =
        (0..=4).find(|decimals| step * libm::pow(10.0, f64::from(*decimals)) >= 1.0 - 1e-9);
    let text = format!("{figure:.*}", decimals.unwrap_or(4) as usize);
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') {
        return text.trim_start_matches('-').to_owned();
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> String {
        let lines = Lines {
            title: "Cores < used".into(),
            x_label: "time, hours".into(),
            y_label: "used, %".into(),
            series: vec![vec![(0.0, 10.0), (2.0, 63.0)], vec![(0.0, 0.0), (2.0, 0.0)]],
        };
        let bars = Bars {
            title: "Machines".into(),
            y_label: "%".into(),
            groups: vec![("a & b".into(), vec![3.0, f64::NAN])],
        };
        Picture::new(vec!["epvm".into(), "spread".into()]).lines(&lines).bars(&bars).finish()
    }

    #[test]
    fn a_picture_has_axes_units_and_a_legend() {
        let text = picture();
        assert_eq!(text, picture());
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        for part in [
            "Cores &lt; used",
            "time, hours",
            "used, %",
            ">epvm<",
            ">spread<",
            "a &amp; b",
            ">80<",
            ">–<",
        ] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        for tag in ["svg", "text"] {
            let (opened, closed) = (format!("<{tag} "), format!("</{tag}>"));
            assert_eq!(text.matches(&opened).count(), text.matches(&closed).count());
        }
    }

    #[test]
    fn axes_have_round_steps_and_hold_everything() {
        for (figures, from, to, step) in [
            ([0.0, 63.0], 0.0, 80.0, 20.0),
            ([0.0, 1.0], 0.0, 1.0, 0.2),
            ([0.0, 100.0], 0.0, 100.0, 20.0),
            ([0.5, 6.0], 0.0, 6.0, 2.0),
            ([0.0, 0.0], 0.0, 1.0, 0.2),
            ([-3.0, 12.0], -5.0, 15.0, 5.0),
        ] {
            let scale = Scale::over(figures.into_iter());
            let seen = [scale.from, scale.to, scale.step];
            let near =
                seen.iter().zip([from, to, step]).all(|(one, other)| (one - other).abs() < 1e-9);
            assert!(near, "{figures:?}: {scale:?}");
        }
        let empty = Scale::over(std::iter::empty());
        assert!(empty.from.is_finite() && empty.to.is_finite(), "{empty:?}");
    }

    #[test]
    fn figures_have_the_decimals_that_their_steps_need() {
        assert_eq!(number(0.4, 0.2), "0.4");
        assert_eq!(number(40.0, 20.0), "40");
        assert_eq!(number(-0.0, 5.0), "0");
        assert_eq!(number(0.25, 0.05), "0.25");
    }
}
