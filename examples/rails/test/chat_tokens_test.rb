ENV["RAILS_ENV"] = "test"
require_relative "../config/environment"
require "rails/test_help"

ActionController::Base.allow_forgery_protection = false # the config/environments/test.rb of a new app has this

class ChatTokensTest < ActionDispatch::IntegrationTest
  setup { post "/login", params: { user: "user-1" } }

  test "the page has both tokens of the signed-in user" do
    get "/"
    tokens = JSON.parse(css_select("#chat-tokens").text)["tokens"]
    assert_equal %w[intercom_user_jwt salesforce_identity_token], tokens.keys.sort
    assert_equal %w[user-1 user-1], [claims(tokens["intercom_user_jwt"])["user_id"], claims(tokens["salesforce_identity_token"])["sub"]]
    assert_equal "no-store", response.headers["Cache-Control"]
    assert_nil response.headers["ETag"]
  end

  test "new tokens need a session" do
    get "/chat-tokens"
    assert_response :ok
    post "/logout"
    get "/chat-tokens"
    assert_response :unauthorized
  end

  test "the page loads without tokenmint" do
    tokenmint = Rails.configuration.x.tokenmint
    tokenmint.uri, uri = URI("http://127.0.0.1:9/bundle"), tokenmint.uri
    get "/"
    assert_response :ok
    assert_equal "null", css_select("#chat-tokens").text
  ensure
    tokenmint.uri = uri
  end

  private

  def claims(token) = JSON.parse(Base64.urlsafe_decode64(token.split(".")[1]))
end
