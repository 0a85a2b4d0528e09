//! A change on its way, drawn: a line that says what it is at and, while images are fetched, one for
//! each layer. Without a terminal each step is a line of its own, and layers are none.

use crate::output;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{collections::BTreeMap, io::IsTerminal, time::Duration};
use tank_proto::varlink::{Layer, Method, Progress, Stage};

/// How long nothing may change until the picture is drawn again.
const TICK: Duration = Duration::from_millis(100);

/// The most layers that are drawn at once: those of a larger number are counted and not shown.
const MAX_DRAWN: usize = 8;

/// Bytes, how many come in a second, and how long the rest takes; each as wide as it gets.
const LAYER: &str = "  {prefix} [{bar:20}] {binary_bytes:>10} of {binary_total_bytes:<10} {binary_bytes_per_sec:>12} {eta:>4}  {msg}";

/// What is drawn. Nothing is left of it on the terminal when it ends.
pub struct ProgressView(Option<Picture>);

struct Picture {
    all: MultiProgress,
    at: ProgressBar,
    /// Layers that are on their way, by image and digest.
    layers: BTreeMap<(String, String), ProgressBar>,
}

impl ProgressView {
    /// For standard error.
    pub fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let all = MultiProgress::new();
        let at = all.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            at.set_style(style);
        }
        at.enable_steady_tick(TICK);
        let layers = BTreeMap::new();
        Self(Some(Picture { all, at, layers }))
    }

    /// The same change, which asks for what is drawn of layers.
    pub fn asking_for_layers(&self, mut method: Method) -> Method {
        let layers = self.0.is_some().then_some(true);
        match &mut method {
            Method::Switch(call) => call.layers = layers,
            Method::Diff(call) => call.layers = layers,
            _ => {}
        }
        method
    }

    pub fn show(&mut self, progress: &Progress) {
        let text = match progress.stage {
            Stage::Step | Stage::Note => progress.message.clone(),
            Stage::Wait => format!("waiting: {}", progress.message),
            Stage::Rollback => "does not work, going back".to_owned(),
            stage => format!("{stage} {}", progress.message),
        };
        match (&mut self.0, &progress.layer) {
            (Some(picture), Some(layer)) => picture.show_layer(&progress.message, layer),
            (Some(picture), None) => {
                // Layers of a change that goes on are here.
                if progress.stage != Stage::Pull {
                    picture.clear_layers();
                }
                let text = output::visible(&text).into_owned();
                picture.at.set_message(text);
            }
            // Where each step is a line, what is waited for is none.
            (None, _) if progress.layer.is_some() || progress.stage == Stage::Wait => {}
            (None, _) => output::error(&format!("{text}\n")),
        }
    }

    pub fn finish(&mut self) {
        if let Some(picture) = &mut self.0 {
            picture.clear_layers();
            picture.at.finish_and_clear();
        }
    }
}

impl Picture {
    fn show_layer(&mut self, image: &str, layer: &Layer) {
        let key = (image.to_owned(), layer.digest.clone());
        if layer.done >= layer.size {
            if let Some(bar) = self.layers.remove(&key) {
                bar.finish_and_clear();
            }
            return;
        }
        if !self.layers.contains_key(&key) && self.layers.len() >= MAX_DRAWN {
            return;
        }
        let all = &self.all;
        let bar = self.layers.entry(key).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(layer.size));
            if let Ok(style) = ProgressStyle::with_template(LAYER) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(output::visible(output::short(&layer.digest)).into_owned());
            bar.set_message(output::visible(image).into_owned());
            bar
        });
        bar.set_position(layer.done);
    }

    fn clear_layers(&mut self) {
        for bar in std::mem::take(&mut self.layers).into_values() {
            bar.finish_and_clear();
        }
    }
}
