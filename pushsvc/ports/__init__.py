"""The protocols between the stages and the store or the providers; `pushsvc.runtime` joins the two sides. Every method
that calls Redis raises `StoreUnavailable` when it cannot reach it, and only the errors that it names besides."""
