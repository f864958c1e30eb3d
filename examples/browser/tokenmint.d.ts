/** What tokenmint's `POST /bundle` answers, passed through by your backend. */
export interface ChatTokens {
  salesforce_identity_token?: string;
  intercom_user_jwt?: string;
}

export interface TokenAnswer {
  tokens: ChatTokens;
  expires_at: number;
  expires_in: number;
  renew_at: number;
}

/** What `POST /identity-token` answers: enough where there is no Fin. */
export interface IdentityTokenAnswer {
  token: string;
  expires_at: number;
  expires_in: number;
  renew_at: number;
}

/** What `report` hears, and what comes with it. For your log: a token has no business there. */
export type Report =
  /** New tokens were handed to the chat. */
  | [event: "tokens", detail: ChatTokens]
  /** None came: HTTP status, or undefined if there was no answer. It asks again by itself, after a pause. */
  | [event: "failed", detail: number | undefined]
  /** 401: the app's session is over. It asks no more. */
  | [event: "signed-out", detail: undefined]
  /** The route gave another user's tokens, as after a new login in another tab. They were not used; it asks no more. */
  | [event: "other-user", detail: undefined]
  /** `stop` or `logout` was called. */
  | [event: "stopped", detail: undefined];

export interface Options {
  /** The route of your app that gives the signed-in user's tokens. Default: `/chat-tokens` */
  url?: string;
  /**
   * The tokens that the server wrote into this page: then nothing is asked for at load. `null`: it tried in vain, so the
   * first request waits two seconds. Left out: they are asked for at once.
   */
  initial?: TokenAnswer | IdentityTokenAnswer | null;
  /** Goes into `intercomSettings` and into every `update`, beside both tokens. */
  fin?: { user_id?: string; [setting: string]: unknown };
  /** `true` if `onEmbeddedMessagingReady` came before this call. If that is not known, it is taken for granted after 5 s. */
  ready?: boolean;
  report?: (...report: Report) => void;
}

export interface Chat {
  /** The newest tokens: `Intercom("update", { ...chat.tokens, page: 2 })`. */
  readonly tokens?: ChatTokens;
  /** Ends all requests and timers. The chat keeps the token that it has. */
  stop(): void;
  /** `stop`, and ends the chat's session: Salesforce's `clearSession(true)`, Fin's `shutdown`. Takes 3 s at most. */
  logout(): Promise<void>;
}

export function chatTokens(options?: Options): Chat;
