# Chat tokens of tokenmint on a page of a Sinatra app.
#
#   apt install ruby-sinatra puma        (or: gem install sinatra puma)
#   TOKENMINT_URL=http://127.0.0.1:8080 TOKENMINT_API_KEY=... SESSION_SECRET=... ruby app.rb    (PORT, default 4567)
#
# For Rails see examples/rails.
require "sinatra"
require "json"
require "net/http"
require "timeout"

TOKENMINT = URI("#{ENV.fetch("TOKENMINT_URL")}/bundle")
API_KEY = ENV.fetch("TOKENMINT_API_KEY")

set :sessions, same_site: :lax # signed with SESSION_SECRET. Behind https add: secure: true
set :views, __dir__

helpers do
  # [status, tokens, Retry-After] for GET /chat-tokens. `user_id` comes from the session, never from the browser.
  def ask_tokenmint(user_id)
    headers = { "Authorization" => "Bearer #{API_KEY}", "Content-Type" => "application/json" }
    answer = Timeout.timeout(1) do # for the whole request; open_timeout and read_timeout restart at each step
      Net::HTTP.start(TOKENMINT.host, TOKENMINT.port, use_ssl: TOKENMINT.scheme == "https") do |http|
        http.post(TOKENMINT.path, { sub: user_id }.to_json, headers)
      end
    end
    return [200, JSON.parse(answer.body)] if answer.code == "200"
    warn "tokenmint: no tokens, HTTP #{answer.code} #{reason(answer.body)}"
    answer.code == "429" ? [429, nil, answer["Retry-After"] || "60"] : [204]
  rescue StandardError => error # down or slow. The message may quote the API key, so log only the class
    warn "tokenmint: no tokens, #{error.class}"
    [204]
  end

  # What the log gets of a refusal: its code, and the request id that tokenmint logs with RUST_LOG=debug. No description, no token.
  def reason(body)
    JSON.generate(JSON.parse(body).slice("error", "request_id"))
  rescue StandardError # for example the HTML page of a proxy
    "{}"
  end

  def chat_tokens(user_id) = ask_tokenmint(user_id)[1] # nil: the page loads without tokens

  def json(value) = JSON.generate(value).gsub("<", '\u003c') # for a <script>: the value can't end the element
end

before { headers "Cache-Control" => "no-store" }

get("/") { erb :page, locals: { user: session[:user] } }

get "/chat-tokens" do
  halt 401 unless session[:user]
  code, tokens, retry_after = ask_tokenmint(session[:user])
  headers "Retry-After" => retry_after if retry_after
  content_type :json if tokens
  [code, tokens ? tokens.to_json : ""]
end

post "/login" do # put your own login, with a password, here
  session[:user] = params["user"].to_s unless params["user"].to_s.empty?
  redirect "/", 303
end

post "/logout" do
  session.clear
  redirect "/", 303
end

get("/tokenmint.js") { send_file "#{__dir__}/../browser/tokenmint.js" }
