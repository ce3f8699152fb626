//! Two-way sync between a local Postgres and a Supabase project.
