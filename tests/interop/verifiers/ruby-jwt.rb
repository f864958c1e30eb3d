# Verifies a token with ruby-jwt and a loader of the key set, as its manual shows it for Rails.
# usage: ruby ruby-jwt.rb JWKS_URL TOKEN ALG ISSUER SUB -> the claims as JSON; exit code 1 on refusal
require "json"
require "jwt"
require "net/http"

jwks_url, token, alg, issuer, sub = ARGV

# Debian 12 has ruby-jwt 2.5, where the loader gives a Hash; JWT::JWK::Set came with 2.6, and takes the same Hash.
loader = lambda do |_options|
  answer = Net::HTTP.get_response(URI(jwks_url))
  raise IOError, "#{jwks_url}: #{answer.code}" unless answer.is_a?(Net::HTTPOK)

  keys = JSON.parse(answer.body, symbolize_names: true)
  defined?(JWT::JWK::Set) ? JWT::JWK::Set.new(keys) : keys
end

begin
  claims, = JWT.decode(token, nil, true, algorithms: [alg], jwks: loader, iss: issuer, verify_iss: true,
                                         sub: sub, verify_sub: true, verify_iat: true, required_claims: %w[exp iat])
  puts JSON.generate(claims)
rescue JWT::DecodeError => e
  warn "refused: #{e.class} #{e.message}"
  exit 1
rescue StandardError => e
  warn e.full_message
  exit 2
end
