# Verifies a JWT of a user with ruby-jwt, as a Rails application's own test of it would.
# usage: ruby ruby-jwt-secret.rb TOKEN SECRET [CLAIM OF THE USER, by default Intercom's] -> the claims as JSON; exit code 1 on refusal
require "json"
require "jwt"

token, secret, user = ARGV
begin
  claims, = JWT.decode(token, secret, true, algorithms: ["HS256"], verify_iat: true, required_claims: [user || "user_id", "exp"])
  puts JSON.generate(claims)
rescue JWT::DecodeError => e
  warn "refused: #{e.class} #{e.message}"
  exit 1
rescue StandardError => e
  warn e.full_message
  exit 2
end
