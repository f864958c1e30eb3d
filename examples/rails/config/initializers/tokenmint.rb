# Without these two variables the app doesn't start.
Rails.application.config.x.tokenmint.uri = URI("#{ENV.fetch("TOKENMINT_URL")}/bundle")
Rails.application.config.x.tokenmint.api_key = ENV.fetch("TOKENMINT_API_KEY")
