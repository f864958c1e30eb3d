require "json"
require "net/http"
require "timeout"

# Asks tokenmint for the chat tokens of one user. Replaces Intercom's `intercom_jwt` and `salesforce_jwt`.
module Tokenmint
  # What GET /chat-tokens answers: 200 with tokens, 204 without, 429 with Retry-After.
  Answer = Struct.new(:status, :tokens, :retry_after)

  # Takes at most a second and never raises: without tokens the page loads all the same.
  # `user_id` comes from the session, never from the browser.
  def self.bundle(user_id)
    answer = post(sub: user_id.to_s)
    return Answer.new(200, JSON.parse(answer.body)) if answer.code == "200"

    Rails.logger.warn "tokenmint: no tokens, HTTP #{answer.code} #{reason(answer.body)}"
    answer.code == "429" ? Answer.new(429, nil, answer["Retry-After"] || "60") : Answer.new(204)
  rescue StandardError => error # down or slow. The message may quote the API key, so log only the class
    Rails.logger.warn "tokenmint: no tokens, #{error.class}"
    Answer.new(204)
  end

  def self.post(body)
    uri, api_key = Rails.configuration.x.tokenmint.values_at(:uri, :api_key)
    headers = { "Authorization" => "Bearer #{api_key}", "Content-Type" => "application/json" }
    Timeout.timeout(1) do # for the whole request; open_timeout and read_timeout restart at each step
      Net::HTTP.start(uri.host, uri.port, use_ssl: uri.scheme == "https") do |http|
        http.post(uri.path, body.to_json, headers)
      end
    end
  end

  # What the log gets of a refusal: its code, and the request id that tokenmint logs with RUST_LOG=debug. No description, no token.
  def self.reason(body)
    JSON.parse(body).slice("error", "request_id").to_json
  rescue StandardError # for example the HTML page of a proxy
    "{}"
  end

  private_class_method :post, :reason
end
