//! What Nickel alone costs: evaluates a file and prints it as JSON, without contracts, checks or a
//! child process. The peer of `tests/bench/language.py`.

use nickel_lang_core::{eval::cache::CacheImpl, program::ProgramBuilder};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a file")?;
    let built = ProgramBuilder::new().add_path(path).build::<CacheImpl>();
    let mut program = built.map_err(|_| "it can't be read")?;
    let value = program
        .eval_full_for_export()
        .map_err(|_| "it does not evaluate")?;
    println!("{}", serde_json::to_string(&value)?);
    Ok(())
}
