# Put your own login, with a password, in the place of this.
class SessionsController < ApplicationController
  def create
    reset_session
    session[:user_id] = params[:user].to_s if params[:user].present?
    redirect_to root_path, status: :see_other
  end

  def destroy
    reset_session
    redirect_to root_path, status: :see_other
  end
end
