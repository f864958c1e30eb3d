Rails.application.routes.draw do
  get "/chat-tokens", to: "chat_tokens#show"

  root "home#show"
  post "/login", to: "sessions#create"
  post "/logout", to: "sessions#destroy"
end
